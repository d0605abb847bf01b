/** One account: what it may, its password, its sessions, who is behind it. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { $api, api, type Schemas } from "../api";
import { DASH, when } from "../fmt";
import { useSession } from "../session";
import { Action } from "../ui/action";
import { CallForm } from "../ui/call-form";
import { ButtonLink, Facts, Field, Secret, Select, StateMark } from "../ui/controls";
import { May, Panel } from "../ui/page";
import { Empty, Loaded, Notice } from "../ui/state";
import { ROLES } from "./people-accounts";
import { PersonalData } from "./people-person";
import { Sessions } from "./people-sessions";

type Account = Schemas["Account"];
type Update = Schemas["AccountUpdate"];
const LIMIT = 500;

export function OneAccount({ name }: { name: string }) {
  const query = useQuery({
    queryKey: ["get", "/api/v1/accounts", { one: name }],
    queryFn: () => accountOf(name),
  });
  return (
    <>
      <div className="actions">
        <ButtonLink href="/people">All accounts</ButtonLink>
      </div>
      <Loaded query={query} what="this account">
        {(account) =>
          account === null ? (
            <Empty title={`No account is called ${name}`} />
          ) : (
            <>
              <Facts
                of={[
                  ["State", <StateMark key="state" state={account.disabled_at ? "disabled" : "ready"} />],
                  ["Role", account.role],
                  ["Team", account.team ?? DASH],
                  ["Tier", account.tier],
                  ["Created (UTC)", when(account.created_at)],
                  ["Disabled (UTC)", when(account.disabled_at)],
                  ["Id", account.id],
                ]}
              />
              <div className="panels">
                <May call="PATCH /api/v1/accounts/{name}">
                  <Rights key={`${account.role} ${account.team} ${account.tier}`} account={account} />
                </May>
                <May call="PUT /api/v1/accounts/{name}/password">
                  <Password name={name} />
                </May>
              </div>
              <PersonalData name={name} />
              <Sessions account={name} />
            </>
          )
        }
      </Loaded>
    </>
  );
}

/** The API lists accounts and shows none alone: read on until it is found. */
async function accountOf(name: string): Promise<Account | null> {
  let cursor: string | undefined;
  do {
    const { data } = await api.GET("/api/v1/accounts", { params: { query: { limit: LIMIT, cursor } } });
    const found = data?.data.find((each) => each.name === name);
    if (found) return found;
    cursor = data?.next_cursor ?? undefined;
  } while (cursor);
  return null;
}

function Rights({ account }: { account: Account }) {
  const [role, setRole] = useState(account.role);
  const [team, setTeam] = useState(account.team ?? "");
  const [tier, setTier] = useState(account.tier);
  const me = useSession();
  const teams = $api.useQuery("get", "/api/v1/teams");
  const tiers = $api.useQuery("get", "/api/v1/tiers");
  const named = (all: readonly { name: string }[] | undefined, own: string) => [
    ...new Set([...(own ? [own] : []), ...(all ?? []).map((each) => each.name)]),
  ];
  const patch = (changes: Partial<Update>) =>
    api.PATCH("/api/v1/accounts/{name}", {
      params: { path: { name: account.name } },
      body: changes as Update, // what is left out stays as it is
    });
  const changes: Partial<Update> = {
    ...(role === account.role ? {} : { role }),
    ...(team === (account.team ?? "") ? {} : { team: team || null }),
    ...(tier === account.tier ? {} : { tier }),
  };
  const mine = account.name === me.account;
  return (
    <Panel title="What it may">
      <div className="pair">
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
            options={[["", "none"], ...named(teams.data?.data, account.team ?? "")]}
            onChange={(event) => setTeam(event.target.value)}
          />
        </Field>
        <Field label="Tier">
          <Select
            value={tier}
            options={named(tiers.data?.data, account.tier)}
            onChange={(event) => setTier(event.target.value)}
          />
        </Field>
      </div>
      {mine && (
        <Notice kind="warn">This is your own account: with another role you may lose this page.</Notice>
      )}
      <div className="actions">
        <Action
          call="PATCH /api/v1/accounts/{name}"
          label="Change it"
          look="main"
          disabled={Object.keys(changes).length === 0}
          run={() => patch(changes)}
        />
        {!mine && (
          <Action
            key={account.disabled_at}
            call="PATCH /api/v1/accounts/{name}"
            label={account.disabled_at ? "Enable it again" : "Disable it"}
            look={account.disabled_at ? "plain" : "bad"}
            confirm={
              account.disabled_at
                ? undefined
                : {
                    title: `Disable ${account.name}?`,
                    text: "Its keys and sessions open nothing within a second, until it is enabled again.",
                  }
            }
            run={() => patch({ disabled: !account.disabled_at })}
          />
        )}
      </div>
    </Panel>
  );
}

function Password({ name }: { name: string }) {
  const [password, setPassword] = useState("");
  const [told, tell] = useState<string | null>(null);
  const run = async () => {
    tell(null);
    const { data } = await api.PUT("/api/v1/accounts/{name}/password", {
      params: { path: { name } },
      body: { password },
    });
    setPassword("");
    tell(`${name} has it now; ${data?.ended_sessions ?? 0} sessions ended.`);
  };
  return (
    <Panel title="Password">
      <CallForm
        call="PUT /api/v1/accounts/{name}/password"
        action="Set it"
        look="plain"
        disabled={!password}
        run={run}
      >
        <Secret
          label="New password"
          hint="12 characters or more. Its sessions and a lock end; its keys stay"
          value={password}
          change={setPassword}
        />
        {told && <Notice kind="ok">{told}</Notice>}
      </CallForm>
    </Panel>
  );
}
