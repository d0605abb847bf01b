/** Curves over numbers (uPlot), with a sentence, a table and a CSV file of the same. */
import { useEffect, useMemo, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { sig } from "../fmt";
import { Button } from "./controls";
import { aligned, smoothed } from "./curves";

export type Curve = { label: string; x: readonly number[]; y: readonly (number | null)[] };
/** So few values that each is drawn. */
const FEW = 30;

function sparse(values: ArrayLike<number | null | undefined> | undefined): boolean {
  let count = 0;
  for (const value of Array.from(values ?? [])) if (value !== null && value !== undefined) count += 1;
  return count <= FEW;
}

const DASHES = [undefined, undefined, [8, 4], [2, 3], [10, 3, 2, 3], [5, 5]];
export const SERIES = 6;

type Props = {
  title: string;
  /** What it says, in a sentence, for who does not see it. */
  sentence: string;
  xLabel: string;
  curves: readonly Curve[];
  height?: number;
  /** The x values are seconds since 1970. */
  time?: boolean;
  /** Offers smoothing and a logarithmic scale. */
  tools?: boolean;
};

export function Chart({ title, sentence, xLabel, curves, height = 220, time = false, tools = false }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [asTable, setTable] = useState(false);
  const [log, setLog] = useState(false);
  const [smooth, setSmooth] = useState(0);
  const [dressed, redress] = useState(0);
  const shown = curves.slice(0, SERIES);
  const names = shown.map((curve) => curve.label).join("\u0000");
  const data = useMemo(
    () =>
      aligned(smooth ? shown.map((curve) => ({ ...curve, y: smoothed(curve.x, curve.y, smooth) })) : shown),
    [shown, smooth],
  );
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    const again = () => redress((count) => count + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", again);
    window.addEventListener("themechange", again);
    return () => {
      dark.removeEventListener("change", again);
      window.removeEventListener("themechange", again);
    };
  }, []);

  // biome-ignore lint/correctness/useExhaustiveDependencies: `dressed` means that the colours are others now
  useEffect(() => {
    const host = box.current;
    if (!host || asTable) return;
    const style = getComputedStyle(document.documentElement);
    const color = (name: string) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--ink-2"),
      grid: { stroke: color("--bg-3"), width: 1 },
      font: "11px IBM Plex Mono",
    };
    const made = new uPlot(
      {
        width: host.clientWidth || 600,
        height,
        scales: { x: { time }, y: log ? { distr: 3 } : {} },
        legend: { live: true },
        cursor: { drag: { x: true, y: false } },
        axes: [
          { ...axis, ticks: axis.grid },
          { ...axis, ticks: axis.grid, size: 64, values: (_, all) => all.map((v) => sig(v, 3)) },
        ],
        series: [
          { label: xLabel },
          ...names.split("\u0000").map((label, at) => ({
            label,
            stroke: color(`--c${at + 1}`),
            width: 1.5,
            dash: DASHES[at],
            spanGaps: true,
            // A few measurements are seen as points: a line needs two.
            points: { show: (plot: uPlot, series: number) => sparse(plot.data[series]), size: 5 },
          })),
        ],
      },
      latest.current,
      host,
    );
    plot.current = made;
    const sized = new ResizeObserver(() => made.setSize({ width: host.clientWidth, height }));
    sized.observe(host);
    return () => {
      sized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [names, asTable, log, height, time, xLabel, dressed]);

  useEffect(() => plot.current?.setData(data), [data]);

  return (
    <figure className="chart">
      <figcaption>
        <h2>{title}</h2>
        <div className="actions">
          {tools && (
            <>
              <label className="inline">
                Smoothing{" "}
                <input
                  type="range"
                  min={0}
                  max={0.95}
                  step={0.05}
                  value={smooth}
                  onChange={(event) => setSmooth(Number(event.target.value))}
                />
              </label>
              <Button look="quiet" aria-pressed={log} onClick={() => setLog(!log)}>
                Log scale
              </Button>
            </>
          )}
          <Button look="quiet" aria-pressed={asTable} onClick={() => setTable(!asTable)}>
            Data
          </Button>
          <Button look="quiet" onClick={() => save(title, xLabel, shown)}>
            CSV
          </Button>
        </div>
      </figcaption>
      {asTable ? (
        <Numbers title={title} xLabel={xLabel} curves={shown} time={time} />
      ) : (
        <div ref={box} role="img" aria-label={`${title}: ${sentence}`} data-points={data[0]?.length ?? 0} />
      )}
    </figure>
  );
}

const MOST_ROWS = 200;

function Numbers({ title, xLabel, curves, time }: Pick<Props, "title" | "xLabel" | "curves" | "time">) {
  const [x, ...columns] = aligned(curves);
  const rows = Array.from(x ?? []).map((_, at) => at);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <section className="table-box chart-table" tabIndex={0} aria-label={`Numbers of ${title}`}>
      <table>
        <thead>
          <tr>
            <th scope="col">{xLabel}</th>
            {curves.map((curve) => (
              <th scope="col" key={curve.label} className="num">
                {curve.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.slice(-MOST_ROWS).map((at) => (
            <tr key={at}>
              <td>{time ? new Date((x?.[at] ?? 0) * 1000).toISOString().slice(0, 16) : x?.[at]}</td>
              {columns.map((column, place) => (
                <td className="num" key={curves[place]?.label}>
                  {sig(column[at] ?? null)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {rows.length > MOST_ROWS && (
        <p className="small">
          The last {MOST_ROWS} rows; the CSV file has all {rows.length}.
        </p>
      )}
    </section>
  );
}

export function csv(xLabel: string, curves: readonly Curve[]): string {
  const [x, ...columns] = aligned(curves);
  const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`;
  const head = [xLabel, ...curves.map((curve) => curve.label)].map(quoted).join(",");
  const rows = Array.from(x ?? []).map((value, at) =>
    [value, ...columns.map((column) => column[at] ?? "")].join(","),
  );
  return `${[head, ...rows].join("\n")}\n`;
}

function save(title: string, xLabel: string, curves: readonly Curve[]) {
  const url = URL.createObjectURL(new Blob([csv(xLabel, curves)], { type: "text/csv" }));
  const link = Object.assign(document.createElement("a"), { href: url, download: `${title}.csv` });
  link.click();
  URL.revokeObjectURL(url);
}
