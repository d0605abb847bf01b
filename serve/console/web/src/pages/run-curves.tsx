/** The curves of one run, or of several laid over each other: loss first, the others when they are asked for. */
import { useMemo } from "react";
import type { Schemas } from "../api";
import { num, sig } from "../fmt";
import { Chart, type Curve } from "../ui/chart";
import { Button } from "../ui/controls";
import { Empty } from "../ui/state";
import { useParam } from "../url";

type Points = Schemas["RunPoints"]["points"];
export type Told = { label: string; points: Points };

const TITLES: Record<string, string> = {
  loss: "Loss",
  validation_loss: "Validation loss",
  lr: "Learning rate",
  tokens_per_s: "Tokens/s",
  grad_norm: "Gradient norm",
};
const FIRST = ["loss", "lr", "tokens_per_s"];

export function Curves({ runs }: { runs: readonly Told[] }) {
  const [asked, ask] = useParam("curves", FIRST.join(","));
  const measures = useMemo(() => measuresOf(runs), [runs]);
  const shown = asked.split(",").filter((name) => measures.includes(name) && name !== "validation_loss");
  if (measures.length === 0) return <Empty title="No step yet">The curves begin with the first step.</Empty>;
  const turn = (name: string) =>
    ask(
      (shown.includes(name) ? shown.filter((each) => each !== name) : [...shown, name]).join(",") || "none",
    );
  return (
    <>
      <fieldset className="actions plain" aria-label="Curves">
        {measures
          .filter((name) => name !== "validation_loss")
          .map((name) => (
            <Button key={name} look="quiet" aria-pressed={shown.includes(name)} onClick={() => turn(name)}>
              {TITLES[name] ?? name}
            </Button>
          ))}
      </fieldset>
      <div className="charts">
        {shown.map((name) => (
          <One key={name} name={name} runs={runs} />
        ))}
      </div>
    </>
  );
}

function One({ name, runs }: { name: string; runs: readonly Told[] }) {
  const curves = useMemo(() => {
    const all = runs.map((run) => curveOf(run, name, runs.length > 1 ? run.label : (TITLES[name] ?? name)));
    if (name !== "loss") return all;
    const checked = runs.map((run) =>
      curveOf(run, "validation_loss", runs.length > 1 ? `${run.label}, validation` : "Validation loss"),
    );
    return [...all, ...checked.filter((curve) => curve.x.length > 0)];
  }, [runs, name]);
  return (
    <Chart
      title={TITLES[name] ?? name}
      sentence={sentenceOf(curves)}
      xLabel="step"
      curves={curves}
      height={name === "loss" ? 280 : 180}
      tools={name === "loss"}
    />
  );
}

/** Names of all numbers that the points have, the usual ones first. */
export function measuresOf(runs: readonly Told[]): string[] {
  const found = new Set<string>();
  for (const run of runs) {
    for (const point of run.points) {
      for (const [name, value] of Object.entries(point)) {
        if (name !== "step" && typeof value === "number") found.add(name);
      }
    }
  }
  const usual = Object.keys(TITLES).filter((name) => found.has(name));
  return [...usual, ...[...found].filter((name) => !usual.includes(name)).sort()];
}

export function curveOf(run: Told, name: string, label: string): Curve {
  const x: number[] = [];
  const y: number[] = [];
  for (const point of run.points) {
    const value = point[name];
    if (typeof value === "number" && typeof point.step === "number") {
      x.push(point.step);
      y.push(value);
    }
  }
  return { label, x, y };
}

/** What is seen, for who does not see it: where each curve ends, and which way it went over its last tenth. */
export function sentenceOf(curves: readonly Curve[]): string {
  return curves
    .filter((curve) => curve.x.length > 0)
    .map((curve) => {
      const last = curve.y.at(-1) ?? 0;
      const before = curve.y.at(-1 - Math.max(1, Math.floor(curve.y.length / 10))) ?? last;
      const way = last === before ? "level" : (last ?? 0) < (before ?? 0) ? "falling" : "rising";
      return `${curve.label} ${sig(last)} at step ${num(curve.x.at(-1))}, ${way}`;
    })
    .join("; ");
}
