/** Promotions: a board by environment, all of them as a list, a new one, what each environment asks for, and one alone. */
import { useMemo } from "react";
import { $api, type Schemas } from "../api";
import { DASH, percent, when } from "../fmt";
import { useMay } from "../session";
import { Field, Input, Select, StateMark, Tabs } from "../ui/controls";
import { Page, Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useParam, useTyped } from "../url";
import { PromotionDetail } from "./promotions/detail";
import { Environments } from "./promotions/environments";
import { NewPromotion } from "./promotions/new";

type Promotion = Schemas["Promotion"];
const OPEN = ["pending", "approved", "canary"];
const MOST = 6;

export default function Promotions() {
  const [tab, setTab] = useParam("tab", "board");
  const [id] = useParam("id");
  const mayAsk = useMay("POST /api/v1/promotions");
  const tabs: [string, string][] = [
    ["board", "Board"],
    ["list", "All"],
    ["environments", "Environments"],
  ];
  if (mayAsk) tabs.push(["new", "New promotion"]);
  const chosen = tabs.some(([name]) => name === tab) ? tab : "board";
  if (id) return <PromotionDetail id={id} />;
  return (
    <Page title="Promotions">
      <Tabs label="Promotions" tabs={tabs} chosen={chosen} choose={setTab}>
        {chosen === "board" && <Board />}
        {chosen === "list" && <PromotionList />}
        {chosen === "environments" && <Environments />}
        {chosen === "new" && <NewPromotion />}
      </Tabs>
    </Page>
  );
}

/** The newest promotions by the alias that they would move; those that need somebody first. */
function Board() {
  const [llm, setLlm, ofLlm] = useTyped("llm");
  const query = $api.useQuery(
    "get",
    "/api/v1/promotions",
    { params: { query: { limit: 100, llm: ofLlm || undefined } } },
    { placeholderData: (before) => before },
  );
  const environments = $api.useQuery("get", "/api/v1/environments");
  const known = useMemo(() => (environments.data?.data ?? []).map((each) => each.name), [environments.data]);
  return (
    <>
      <search className="filters">
        <ModelFilter value={llm} change={setLlm} />
      </search>
      <Loaded query={query} what="the promotions" rows={8}>
        {(page) => {
          const names = [...new Set([...known, ...page.data.map((each) => each.alias)])];
          return names.length === 0 ? (
            <Empty title={ofLlm ? "No promotion of that model" : "No promotion yet"}>
              A recipe with a promote section asks for one, or: <code>raymill promotion create MODEL N</code>
            </Empty>
          ) : (
            <div className="panels">
              {names.map((name) => (
                <Lane key={name} name={name} rows={page.data.filter((each) => each.alias === name)} />
              ))}
            </div>
          );
        }}
      </Loaded>
    </>
  );
}

function Lane({ name, rows }: { name: string; rows: Promotion[] }) {
  const open = rows.filter((each) => OPEN.includes(each.state));
  const closed = rows.filter((each) => !OPEN.includes(each.state));
  return (
    <Panel title={name}>
      <Table
        caption={`Promotions to ${name}, those that are open first`}
        columns={CARDS}
        rows={[...open, ...closed].slice(0, Math.max(MOST, open.length))}
        rowKey={(each) => each.id}
        href={addressOf}
        empty={<Empty title="Nothing was promoted to it" />}
      />
    </Panel>
  );
}

function PromotionList() {
  const [llm, setLlm, ofLlm] = useTyped("llm");
  const [waiting, setWaiting] = useParam("waiting");
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/promotions",
    { params: { query: { limit: 50, llm: ofLlm || undefined, waiting: waiting === "yes", cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <search className="filters">
        <ModelFilter value={llm} change={setLlm} />
        <Field label="Which">
          <Select
            value={waiting}
            options={[
              ["", "all"],
              ["yes", "those that wait"],
            ]}
            onChange={(event) => setWaiting(event.target.value)}
          />
        </Field>
      </search>
      <Loaded query={query} what="the promotions" rows={8}>
        {(page) => (
          <Table
            caption="Promotions, newest first"
            columns={LIST}
            rows={page.data}
            rowKey={(each) => each.id}
            href={addressOf}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              <Empty title={ofLlm || waiting ? "No promotion fits these filters" : "No promotion yet"} />
            }
          />
        )}
      </Loaded>
    </>
  );
}

function ModelFilter({ value, change }: { value: string; change: (next: string) => void }) {
  return (
    <Field label="Model">
      <Input data-search value={value} onChange={(event) => change(event.target.value)} />
    </Field>
  );
}

function addressOf(each: Promotion): string {
  return `/promotions?id=${each.id}`;
}

function whyOf(each: Promotion): string {
  if (each.state === "canary" && each.canary) return `takes ${percent(each.canary.share)} of the requests`;
  if (each.state === "pending") return `${each.approvals.length} of ${each.approvals_needed} approvals`;
  return each.reasons[0] ?? each.note ?? DASH;
}

const MODEL: Column<Promotion> = {
  id: "model",
  label: "Model",
  cell: (each) => `${each.llm} ${each.version}${each.rollback ? " (roll back)" : ""}`,
  sort: (each) => each.llm,
};
const STATE: Column<Promotion> = {
  id: "state",
  label: "State",
  cell: (each) => <StateMark state={each.state} />,
  sort: (each) => each.state,
};
const WHY: Column<Promotion> = {
  id: "why",
  label: "Why",
  cell: (each) => <span className="wrap">{whyOf(each)}</span>,
};

const CARDS: Column<Promotion>[] = [MODEL, STATE, WHY];

const LIST: Column<Promotion>[] = [
  MODEL,
  { id: "alias", label: "To", cell: (each) => each.alias, sort: (each) => each.alias },
  STATE,
  WHY,
  { id: "by", label: "Asked by", cell: (each) => each.requested_by, sort: (each) => each.requested_by },
  {
    id: "at",
    label: "Created (UTC)",
    num: true,
    cell: (each) => when(each.created_at),
    sort: (each) => each.created_at,
  },
];
