/** Accounts of people and services, and making one. */
import { useState } from "react";
import { useLocation } from "wouter";
import { $api, api, type Schemas } from "../api";
import { DASH, when } from "../fmt";
import { CallForm, Unfolding } from "../ui/call-form";
import { Button, Field, Input, Select, StateMark } from "../ui/controls";
import { Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor } from "../url";

type Account = Schemas["Account"];
export const ROLES: readonly Account["role"][] = ["viewer", "operator", "approver", "admin"];
/** As the command has it. */
const USUAL_TIER = "enterprise";

export function Accounts() {
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/accounts",
    { params: { query: { limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <Unfolding call="POST /api/v1/accounts" label="New account">
        {(close) => <NewAccount close={close} />}
      </Unfolding>
      <Loaded query={query} what="the accounts" rows={8}>
        {(page) => (
          <Table
            caption="Accounts, newest first"
            columns={COLUMNS}
            rows={page.data}
            rowKey={(account) => account.name}
            href={(account) => `/people?account=${encodeURIComponent(account.name)}`}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={<Empty title="Nobody is here yet" />}
          />
        )}
      </Loaded>
    </>
  );
}

function NewAccount({ close }: { close: () => void }) {
  const [name, setName] = useState("");
  const [role, setRole] = useState<Account["role"]>("viewer");
  const [team, setTeam] = useState("");
  const [tier, setTier] = useState("");
  const [, navigate] = useLocation();
  const teams = $api.useQuery("get", "/api/v1/teams");
  const tiers = $api.useQuery("get", "/api/v1/tiers");
  const tierNames = (tiers.data?.data ?? []).map((each) => each.name);
  const chosen = tier || (tierNames.includes(USUAL_TIER) ? USUAL_TIER : (tierNames[0] ?? ""));
  const run = async () => {
    await api.POST("/api/v1/accounts", { body: { name, role, team: team || null, tier: chosen } });
    navigate(`/people?account=${encodeURIComponent(name)}`);
  };
  return (
    <Panel title="New account">
      <CallForm
        call="POST /api/v1/accounts"
        action="Make it"
        disabled={!name || !chosen}
        run={run}
        more={<Button onClick={close}>Leave it</Button>}
      >
        <div className="pair">
          <Field label="Name" hint="Of a person or a service, lower case">
            <Input value={name} onChange={(event) => setName(event.target.value)} />
          </Field>
          <Field label="Role">
            <Select
              value={role}
              options={ROLES}
              onChange={(event) => setRole(event.target.value as Account["role"])}
            />
          </Field>
          <Field label="Team">
            <Select
              value={team}
              options={[["", "none"], ...(teams.data?.data ?? []).map((each) => each.name)]}
              onChange={(event) => setTeam(event.target.value)}
            />
          </Field>
          <Field label="Tier" hint="Its limits at the gateway">
            <Select value={chosen} options={tierNames} onChange={(event) => setTier(event.target.value)} />
          </Field>
        </div>
      </CallForm>
    </Panel>
  );
}

const COLUMNS: Column<Account>[] = [
  { id: "name", label: "Account", cell: (account) => account.name, sort: (account) => account.name },
  {
    id: "role",
    label: "Role",
    cell: (account) => account.role,
    sort: (account) => ROLES.indexOf(account.role),
  },
  { id: "team", label: "Team", cell: (account) => account.team ?? DASH, sort: (account) => account.team },
  { id: "tier", label: "Tier", cell: (account) => account.tier, sort: (account) => account.tier },
  {
    id: "state",
    label: "State",
    cell: (account) => <StateMark state={account.disabled_at ? "disabled" : "ready"} />,
    sort: (account) => account.disabled_at,
  },
  {
    id: "created",
    label: "Created (UTC)",
    num: true,
    cell: (account) => when(account.created_at),
    sort: (account) => account.created_at,
  },
];
