/** Requests, tokens, spend and latency over time and by what they have in common; a row leads one step further down. */
import { useMemo } from "react";
import { useSearchParams } from "wouter";
import { $api, type Schemas } from "../../api";
import { apiRoot } from "../../base";
import { DASH, num, percent, si, usd } from "../../fmt";
import { Chart, type Curve } from "../../ui/chart";
import { Button, Facts, Field, Select } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { Table } from "../../ui/table";
import { useParam } from "../../url";
import { Anomalies, Records } from "./records";
import { columnsBy, ms } from "./usage-columns";

type Group = Schemas["UsageGroup"];
export type Asked = {
  since: string;
  route?: string;
  provider?: string;
  model?: string;
  account?: string;
  team?: string;
  key?: string;
  operation?: string;
};
const BY = ["route", "provider", "model", "account", "team", "key", "operation"] as const;
const SPANS = [
  ["1", "day"],
  ["7", "7 days"],
  ["30", "30 days"],
  ["90", "90 days"],
] as const;
const MEASURES: Record<string, [string, (group: Group) => number | null]> = {
  cost: ["Spend in USD", (group) => group.cost_micro_usd / 1e6],
  requests: ["Requests", (group) => group.requests],
  tokens: ["Tokens", (group) => group.prompt_tokens + group.completion_tokens],
  errors: ["Errors in %", (group) => group.error_rate * 100],
  latency: ["p50 in ms", (group) => group.latency_p50_ms],
};
const HOUR_MS = 3_600_000;

export function Usage() {
  const [days, setDays] = useParam("days", "7");
  const [by, setBy] = useParam("by", "route");
  const [measure, setMeasure] = useParam("measure", "cost");
  const [params, setParams] = useSearchParams();
  // From a whole hour on, so that the question stays the same from one reading to the next.
  const hour = Math.floor(Date.now() / HOUR_MS) * HOUR_MS;
  const asked = useMemo(() => {
    const chosen: Asked = { since: new Date(hour - (Number(days) || 7) * 24 * HOUR_MS).toISOString() };
    for (const name of BY) chosen[name] = params.get(name) || undefined;
    return chosen;
  }, [hour, days, params]);
  const narrowed = BY.filter((name) => params.has(name));
  const drop = (name: string) =>
    setParams((before) => {
      const after = new URLSearchParams(before);
      after.delete(name);
      after.delete("cursor");
      after.delete("page");
      return after;
    });
  const groups = $api.useQuery(
    "get",
    "/api/v1/usage",
    { params: { query: { ...asked, group_by: by } } },
    { placeholderData: (before) => before },
  );
  const csv = new URLSearchParams({ group_by: by });
  for (const [name, value] of Object.entries(asked)) if (value) csv.set(name, value);
  return (
    <>
      <search className="filters">
        <Field label="Of the last">
          <Select value={days} options={SPANS} onChange={(event) => setDays(event.target.value)} />
        </Field>
        <Field label="By">
          <Select data-search value={by} options={BY} onChange={(event) => setBy(event.target.value)} />
        </Field>
        <Field label="Curve">
          <Select
            value={measure}
            options={Object.entries(MEASURES).map(([name, [title]]) => [name, title] as const)}
            onChange={(event) => setMeasure(event.target.value)}
          />
        </Field>
        {narrowed.map((name) => (
          <Button key={name} onClick={() => drop(name)} aria-label={`Take away ${name} ${params.get(name)}`}>
            {name}: {params.get(name)} ✕
          </Button>
        ))}
        <a className="button" href={`${apiRoot}/api/v1/usage.csv?${csv}`} download>
          CSV
        </a>
      </search>
      <Loaded query={groups} what="the usage" rows={6}>
        {(told) => (
          <>
            <Totals total={told.total} />
            <OverTime asked={asked} hours={days === "1"} measure={measure} />
            <Panel title={`By ${by}`}>
              <Table
                caption={`Usage by ${by}; a row leads to what it holds`}
                columns={columnsBy(by)}
                rows={told.data}
                rowKey={(group) => group.by[by] ?? ""}
                href={(group) => deeper(params, by, group)}
                busy={groups.isPlaceholderData}
                empty={<Empty title="Nothing was asked of the gateway in that time" />}
              />
            </Panel>
          </>
        )}
      </Loaded>
      <Anomalies />
      <Records asked={asked} />
    </>
  );
}

/** The same question of that group alone, by the next thing that it is not narrowed to. */
function deeper(params: URLSearchParams, by: string, group: Group): string {
  const next = new URLSearchParams(params);
  next.set("tab", "usage");
  if (!group.by[by]) return `/gateway?${next}`; // those of no team, or no key: nothing asks for them alone
  next.set(by, group.by[by]);
  next.set("by", BY.find((name) => !next.has(name)) ?? by);
  next.delete("cursor");
  next.delete("page");
  return `/gateway?${next}`;
}

function Totals({ total }: { total: Group }) {
  return (
    <Facts
      of={[
        ["Spend", usd(total.cost_micro_usd / 1e6)],
        ["Requests", num(total.requests)],
        ["Errors", total.requests ? percent(total.error_rate) : DASH],
        ["Prompt tokens", si(total.prompt_tokens)],
        ["Completion tokens", si(total.completion_tokens)],
        ["From the cache", num(total.cache_hits)],
        ["Without a price", num(total.unpriced)],
        ["p50", ms(total.latency_p50_ms)],
        ["p99", ms(total.latency_p99_ms)],
      ]}
    />
  );
}

function OverTime({ asked, hours, measure }: { asked: Asked; hours: boolean; measure: string }) {
  const unit = hours ? "hour" : "day";
  const query = $api.useQuery(
    "get",
    "/api/v1/usage",
    { params: { query: { ...asked, group_by: unit } } },
    { placeholderData: (before) => before },
  );
  const [title, value] = MEASURES[measure] ?? (MEASURES.cost as (typeof MEASURES)[string]);
  const data = query.data?.data;
  const curves = useMemo((): Curve[] => {
    const points = (data ?? [])
      .map((group) => [Date.parse(group.by[unit] ?? "") / 1000, value(group)] as const)
      .filter(([at]) => Number.isFinite(at))
      .sort(([one], [other]) => one - other);
    return [{ label: title, x: points.map(([at]) => at), y: points.map(([, each]) => each) }];
  }, [data, unit, title, value]);
  return (
    <Panel title="Over time">
      <Loaded query={query} what="the usage over time">
        {() =>
          curves[0]?.x.length === 0 ? (
            <p className="small">No request in that time.</p>
          ) : (
            <Chart
              title={`${title} by ${unit}`}
              sentence={`${curves[0]?.x.length ?? 0} ${unit}s, the last one ${num(curves[0]?.y.at(-1), 2)}`}
              xLabel={unit}
              curves={curves}
              time
            />
          )
        }
      </Loaded>
    </Panel>
  );
}
