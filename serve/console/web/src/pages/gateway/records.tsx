/** Single requests, and what was unlike the weeks before. */
import { $api, type Schemas } from "../../api";
import { DASH, num, usd, when } from "../../fmt";
import { Panel } from "../../ui/page";
import { Empty, Loaded, Notice } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useCursor } from "../../url";
import type { Asked } from "./usage";
import { ms } from "./usage-columns";

type Single = Schemas["UsageRecord"];

export function Anomalies() {
  const query = $api.useQuery(
    "get",
    "/api/v1/usage/anomalies",
    { params: { query: { by: "route", window_hours: 24 } } },
    { refetchInterval: 300_000 },
  );
  return (
    <Panel title="Unlike the last four weeks">
      <Loaded query={query} what="what is unusual" rows={1}>
        {(told) =>
          told.data.length === 0 ? (
            <p className="small">Nothing in the last {told.window_hours} hours.</p>
          ) : (
            told.data.map((each) => (
              <Notice key={`${each.subject} ${each.metric}`} kind="warn">
                {each.sentence}
              </Notice>
            ))
          )
        }
      </Loaded>
    </Panel>
  );
}

export function Records({ asked }: { asked: Asked }) {
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/usage/records",
    { params: { query: { ...asked, limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <Panel title="Single requests">
      <Loaded query={query} what="the requests">
        {(page) => (
          <Table
            caption="Requests, newest first"
            columns={RECORDS}
            rows={page.data}
            rowKey={(each) => each.id}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={<Empty title="No request in that time" />}
          />
        )}
      </Loaded>
    </Panel>
  );
}

const RECORDS: Column<Single>[] = [
  { id: "at", label: "At (UTC)", cell: (each) => when(each.at, true), sort: (each) => each.at },
  { id: "route", label: "Route", cell: (each) => each.route, sort: (each) => each.route },
  { id: "model", label: "Answered by", cell: (each) => `${each.provider}/${each.model}` },
  { id: "account", label: "Account", cell: (each) => each.account ?? DASH },
  {
    id: "outcome",
    label: "Outcome",
    sort: (each) => each.status,
    cell: (each) =>
      each.status < 400 ? (
        `✓ ${each.outcome}`
      ) : (
        <span className="mark mark-bad">
          <span aria-hidden="true">✕</span> {each.status} {each.outcome}
        </span>
      ),
  },
  {
    id: "tokens",
    label: "Tokens",
    num: true,
    cell: (each) => `${num(each.prompt_tokens)} + ${num(each.completion_tokens)}`,
  },
  {
    id: "cost",
    label: "Cost",
    num: true,
    cell: (each) => (each.priced ? usd(each.cost_micro_usd / 1e6) : "no price"),
    sort: (each) => each.cost_micro_usd,
  },
  {
    id: "took",
    label: "Took",
    num: true,
    cell: (each) => ms(each.latency_ms),
    sort: (each) => each.latency_ms,
  },
  { id: "first", label: "First token", num: true, cell: (each) => ms(each.first_token_ms) },
  { id: "attempts", label: "Tries", num: true, cell: (each) => each.attempts },
  { id: "id", label: "Request", cell: (each) => <code>{each.request_id}</code> },
];
