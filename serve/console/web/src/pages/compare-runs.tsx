/** Several runs laid over each other: curves, what they measured, and the settings in which they differ. */
import { useMemo } from "react";
import { Link } from "wouter";
import { $api, type Schemas } from "../api";
import { DASH, short, sig } from "../fmt";
import { Field, Select, StateMark } from "../ui/controls";
import { Page, Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { useParam } from "../url";
import { Curves } from "./run-curves";

const MOST = 8;

export default function CompareRuns() {
  const [ids, setIds] = useParam("ids");
  const chosen = ids.split(",").filter(Boolean);
  const query = $api.useQuery(
    "get",
    "/api/v1/runs/compare",
    { params: { query: { ids: chosen.join(",") } } },
    { enabled: chosen.length > 1, placeholderData: (before) => before },
  );
  const runs = $api.useQuery("get", "/api/v1/runs", { params: { query: { limit: 100 } } });
  const others = (runs.data?.data ?? []).filter((run) => !chosen.includes(run.id));
  return (
    <Page title="Compare runs">
      <div className="filters">
        <Field label="Add a run">
          <Select
            data-search
            value=""
            disabled={chosen.length >= MOST}
            options={[
              ["", "choose"],
              ...others.map((run) => [run.id, `${run.name} ${short(run.id)}`] as const),
            ]}
            onChange={(event) => setIds([...chosen, event.target.value].join(","))}
          />
        </Field>
      </div>
      {chosen.length < 2 ? (
        <Empty title="Choose two runs or more">
          Mark them in <Link href="/jobs?tab=runs">the list of runs</Link>, or add them here; {MOST} at most.
        </Empty>
      ) : (
        <Loaded query={query} what="the comparison">
          {(told) => (
            <Compared told={told} drop={(id) => setIds(chosen.filter((each) => each !== id).join(","))} />
          )}
        </Loaded>
      )}
    </Page>
  );
}

function Compared({ told, drop }: { told: Schemas["RunComparison"]; drop: (id: string) => void }) {
  const curves = useMemo(
    () =>
      told.runs.map((run, at) => ({ label: `${run.name} ${short(run.id)}`, points: told.curves[at] ?? [] })),
    [told],
  );
  return (
    <>
      <Curves runs={curves} />
      <SideBySide
        title="Measured"
        runs={told.runs}
        rows={told.metrics}
        first={
          <tr>
            <th scope="row">state</th>
            {told.runs.map((run) => (
              <td key={run.id} className="num">
                <StateMark state={run.state} />
              </td>
            ))}
          </tr>
        }
        drop={drop}
      />
      <SideBySide title="Settings in which they differ" runs={told.runs} rows={told.config} />
    </>
  );
}

function SideBySide({
  title,
  runs,
  rows,
  first,
  drop,
}: {
  title: string;
  runs: Schemas["Run"][];
  rows: Record<string, unknown[]>;
  first?: React.ReactNode;
  drop?: (id: string) => void;
}) {
  const names = Object.keys(rows);
  return (
    <Panel title={title}>
      {names.length === 0 && !first ? (
        <p className="small">None.</p>
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
        <section className="table-box" tabIndex={0} aria-label={title}>
          <table>
            <thead>
              <tr>
                <th scope="col">Name</th>
                {runs.map((run) => (
                  <th key={run.id} scope="col" className="num">
                    <Link href={`/runs/${run.id}`}>
                      {run.name} {short(run.id)}
                    </Link>{" "}
                    {drop && (
                      <button
                        type="button"
                        aria-label={`Leave out ${short(run.id)}`}
                        onClick={() => drop(run.id)}
                      >
                        ✕
                      </button>
                    )}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {first}
              {names.map((name) => (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  {runs.map((run, at) => (
                    <td key={run.id} className="num">
                      {shown(rows[name]?.[at])}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </Panel>
  );
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return DASH;
  if (typeof value === "number") return sig(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}
