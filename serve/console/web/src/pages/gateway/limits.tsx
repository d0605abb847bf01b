/** Limits: what an account may use and has used, with its overrides; what each tier allows; budgets. */
import { useState } from "react";
import { $api, api, type Schemas } from "../../api";
import { DASH, num } from "../../fmt";
import { useMay, useSession } from "../../session";
import { CallForm } from "../../ui/call-form";
import { Bar, Facts, Field, Input, Select } from "../../ui/controls";
import { May, Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useTyped } from "../../url";
import { Budgets } from "./budgets";

type Use = Schemas["LimitUse"];
type Tier = Schemas["Tier"];

export function Limits() {
  const me = useSession();
  // Others' limits are for those who see all of them: approvers, as the list of teams.
  const maySeeAll = useMay("GET /api/v1/teams");
  const [text, setText, account] = useTyped("of");
  const name = maySeeAll && account ? account : me.account;
  return (
    <>
      {maySeeAll && (
        <search className="filters">
          <Field label="Account" hint="Empty: your own">
            <Input data-search value={text} onChange={(event) => setText(event.target.value)} />
          </Field>
        </search>
      )}
      <AccountLimits key={name} name={name} />
      <Budgets />
      <Tiers />
    </>
  );
}

function AccountLimits({ name }: { name: string }) {
  const query = $api.useQuery("get", "/api/v1/accounts/{name}/limits", { params: { path: { name } } });
  return (
    <Panel title={`Limits of ${name}`}>
      <Loaded query={query} what={`the limits of ${name}`}>
        {(found) => (
          <>
            <Facts
              of={[
                ["Tier", found.tier],
                ["Team", found.team ?? DASH],
              ]}
            />
            <Table
              caption={`What ${name} may use, and has used`}
              columns={LIMITS}
              rows={found.limits}
              rowKey={(each) => each.name}
            />
            <May call="PATCH /api/v1/accounts/{name}">
              <Override name={name} limits={found.limits} />
            </May>
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function Override({ name, limits }: { name: string; limits: readonly Use[] }) {
  const [limit, setLimit] = useState(limits[0]?.name ?? "");
  const [value, setValue] = useState("");
  const run = () =>
    api.PATCH("/api/v1/accounts/{name}", {
      params: { path: { name } },
      // What is left out stays as it is.
      body: { limits: { [limit]: value.trim() === "" ? "tier" : Number(value) } } as Schemas["AccountUpdate"],
    });
  return (
    <CallForm call="PATCH /api/v1/accounts/{name}" action="Override" look="plain" disabled={!limit} run={run}>
      <div className="pair">
        <Field label="Limit">
          <Select
            value={limit}
            options={limits.map((each) => each.name)}
            onChange={(event) => setLimit(event.target.value)}
          />
        </Field>
        <Field label="At most" hint="Empty: the tier's own again">
          <Input inputMode="numeric" value={value} onChange={(event) => setValue(event.target.value)} />
        </Field>
      </div>
    </CallForm>
  );
}

function Tiers() {
  const query = $api.useQuery("get", "/api/v1/tiers");
  return (
    <Panel title="Tiers">
      <Loaded query={query} what="the tiers">
        {(page) => (
          <>
            <Table
              caption="What each tier allows"
              columns={TIERS}
              rows={page.data}
              rowKey={(each) => each.name}
              empty={<Empty title="No tier yet" />}
            />
            <May call="PUT /api/v1/tiers/{name}">
              <TierForm tiers={page.data} />
            </May>
          </>
        )}
      </Loaded>
    </Panel>
  );
}

/** The service replaces all limits of a tier, so the others go along as they are. */
function TierForm({ tiers }: { tiers: readonly Tier[] }) {
  const names = [...new Set(tiers.flatMap((each) => Object.keys(each.limits)))].sort();
  const [tier, setTier] = useState(tiers[0]?.name ?? "");
  const [limit, setLimit] = useState(names[0] ?? "");
  const [value, setValue] = useState("");
  const run = () => {
    const { [limit]: _, ...others } = tiers.find((each) => each.name === tier)?.limits ?? {};
    const limits = value.trim() === "" ? others : { ...others, [limit]: Number(value) };
    return api.PUT("/api/v1/tiers/{name}", { params: { path: { name: tier } }, body: { limits } });
  };
  return (
    <CallForm
      call="PUT /api/v1/tiers/{name}"
      action="Change the tier"
      look="plain"
      disabled={!tier || !limit}
      run={run}
    >
      <div className="pair">
        <Field label="Tier">
          <Select
            value={tier}
            options={tiers.map((each) => each.name)}
            onChange={(event) => setTier(event.target.value)}
          />
        </Field>
        <Field label="Limit">
          <Select value={limit} options={names} onChange={(event) => setLimit(event.target.value)} />
        </Field>
        <Field label="At most" hint="Empty: no limit">
          <Input inputMode="numeric" value={value} onChange={(event) => setValue(event.target.value)} />
        </Field>
      </div>
    </CallForm>
  );
}

const LIMITS: Column<Use>[] = [
  { id: "name", label: "Limit", cell: (each) => each.name.replaceAll("_", " ") },
  {
    id: "most",
    label: "At most",
    num: true,
    cell: (each) => (each.limit == null ? "no limit" : num(each.limit)),
  },
  { id: "used", label: "Used", num: true, cell: (each) => num(each.used) },
  { id: "held", label: "Held", num: true, cell: (each) => num(each.held) },
  {
    id: "share",
    label: "Share",
    cell: (each) =>
      each.limit ? <Bar share={(each.used + each.held) / each.limit} label={`Used of ${each.name}`} /> : DASH,
  },
  { id: "source", label: "From", cell: (each) => (each.source === "account" ? "its own" : "the tier") },
];

const TIERS: Column<Tier>[] = [
  { id: "name", label: "Tier", cell: (each) => each.name },
  {
    id: "limits",
    label: "Limits",
    cell: (each) => (
      <span className="wrap">
        {Object.entries(each.limits)
          .map(([name, most]) => `${name.replaceAll("_", " ")} ${num(most)}`)
          .join(", ") || "none"}
      </span>
    ),
  },
];
