/** Budgets of accounts, teams and keys: what is spent of each, setting one, taking one away. */
import { useState } from "react";
import { $api, api, type Schemas } from "../../api";
import { usd, when } from "../../fmt";
import { Action } from "../../ui/action";
import { CallForm } from "../../ui/call-form";
import { Bar, Field, Input, Select } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";

type Budget = Schemas["Budget"];

export function Budgets() {
  const query = $api.useQuery("get", "/api/v1/budgets");
  return (
    <Panel title="Budgets">
      <Loaded query={query} what="the budgets">
        {(page) => (
          <Table
            caption="Budgets"
            columns={BUDGETS}
            rows={page.data}
            rowKey={(each) => `${each.subject} ${each.period}`}
            empty={<Empty title="No budget bounds what is spent" />}
          />
        )}
      </Loaded>
      <NewBudget />
    </Panel>
  );
}

function NewBudget() {
  const [kind, setKind] = useState("account");
  const [name, setName] = useState("");
  const [period, setPeriod] = useState<Budget["period"]>("month");
  const [limit, setLimit] = useState("");
  const run = () =>
    api.PUT("/api/v1/budgets/{subject}/{period}", {
      params: { path: { subject: `${kind}:${name}`, period } },
      body: { limit_micro_usd: Math.round(Number(limit) * 1e6) },
    });
  return (
    <CallForm
      call="PUT /api/v1/budgets/{subject}/{period}"
      action="Set the budget"
      look="plain"
      disabled={!name || !(Number(limit) >= 0) || limit === ""}
      run={run}
    >
      <div className="pair">
        <Field label="Of">
          <Select
            value={kind}
            options={[
              ["account", "an account"],
              ["team", "a team"],
              ["key", "a key"],
            ]}
            onChange={(event) => setKind(event.target.value)}
          />
        </Field>
        <Field label="Name">
          <Input value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <Field label="For each">
          <Select
            value={period}
            options={[
              ["day", "day"],
              ["month", "month"],
              ["total", "ever"],
            ]}
            onChange={(event) => setPeriod(event.target.value as Budget["period"])}
          />
        </Field>
        <Field label="USD">
          <Input inputMode="decimal" value={limit} onChange={(event) => setLimit(event.target.value)} />
        </Field>
      </div>
    </CallForm>
  );
}

const BUDGETS: Column<Budget>[] = [
  { id: "name", label: "Of", cell: (each) => `${each.subject.split(":")[0]} ${each.name}` },
  { id: "period", label: "For each", cell: (each) => (each.period === "total" ? "ever" : each.period) },
  { id: "limit", label: "Budget", num: true, cell: (each) => usd(each.limit_micro_usd / 1e6) },
  {
    id: "spent",
    label: "Spent",
    num: true,
    cell: (each) => usd(each.spent_micro_usd / 1e6),
    sort: (each) => each.spent_micro_usd,
  },
  { id: "held", label: "Held", num: true, cell: (each) => usd(each.held_micro_usd / 1e6) },
  {
    id: "share",
    label: "Share",
    cell: (each) => (
      <Bar
        share={each.limit_micro_usd ? (each.spent_micro_usd + each.held_micro_usd) / each.limit_micro_usd : 1}
        label={`Spent of ${each.name}'s budget`}
      />
    ),
  },
  { id: "resets", label: "Anew (UTC)", num: true, cell: (each) => when(each.resets_at) },
  {
    id: "do",
    label: "Actions",
    cell: (each) => (
      <Action
        call="DELETE /api/v1/budgets/{subject}/{period}"
        label="Remove"
        look="quiet"
        confirm={{ title: `Remove the budget of ${each.name}?`, text: "Nothing bounds it from then on." }}
        run={() =>
          api.DELETE("/api/v1/budgets/{subject}/{period}", {
            params: { path: { subject: each.subject, period: each.period } },
          })
        }
      />
    ),
  },
];
