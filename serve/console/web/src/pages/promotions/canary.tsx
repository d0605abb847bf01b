/** A canary: its share, how both versions fare, and what it waits for. */
import type { Schemas } from "../../api";
import { DASH, duration, num, percent, sig, when } from "../../fmt";
import { Bar, Facts, StateMark } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { type Column, Table } from "../../ui/table";

type Promotion = Schemas["Promotion"];
type Side = Schemas["CanarySide"] & { who: string };

export function CanaryPanel({ canary }: { canary: NonNullable<Promotion["canary"]> }) {
  const { config } = canary;
  const least = Math.min(canary.current.requests, canary.canary.requests);
  return (
    <Panel title="Canary">
      <Facts
        of={[
          ["State", <StateMark key="state" state={canary.state} />],
          ["Share", percent(canary.share)],
          ["Shares", canary.shares.map((each) => percent(each)).join(", ")],
          ["This share since (UTC)", when(canary.since)],
          ["Left at least", duration(canary.left_s)],
          ["Measured (UTC)", when(canary.measured_at, true)],
          ["Ended (UTC)", when(canary.ended_at)],
        ]}
      />
      <p>{canary.decides}</p>
      {canary.ended_at === null && (
        <>
          <Bar
            share={config.min_requests ? least / config.min_requests : 1}
            label="Requests of the share, of those that it takes"
          />
          <p className="small">
            {num(least)} of {num(config.min_requests)} requests to each version; a share lasts{" "}
            {duration(config.for_s)} at least, {duration(config.max_s)} at most.
          </p>
        </>
      )}
      <Table
        caption="Both versions since the share began"
        columns={SIDES}
        rows={[
          { ...canary.current, who: "present" },
          { ...canary.canary, who: "new" },
        ]}
        rowKey={(each) => each.who}
      />
    </Panel>
  );
}

const SIDES: Column<Side>[] = [
  { id: "who", label: "Which", cell: (each) => each.who },
  { id: "version", label: "Version", num: true, cell: (each) => each.version },
  { id: "requests", label: "Requests", num: true, cell: (each) => num(each.requests) },
  { id: "errors", label: "Errors", num: true, cell: (each) => percent(each.error_rate, 2) },
  {
    id: "p95",
    label: "p95",
    num: true,
    cell: (each) => (each.p95_ms == null ? DASH : `${num(each.p95_ms)} ms`),
  },
  {
    id: "scores",
    label: "Feedback",
    num: true,
    cell: (each) => (each.scores ? `${sig(each.score_mean, 3)} (n=${num(each.scores)})` : DASH),
  },
];
