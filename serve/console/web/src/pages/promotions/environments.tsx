/** What a move of the aliases of each name takes besides the policy's consent; administrators change it. */
import { useState } from "react";
import { $api, api, type Schemas } from "../../api";
import { DASH, duration, percent } from "../../fmt";
import { CallForm, Tick } from "../../ui/call-form";
import { Field, Input } from "../../ui/controls";
import { May, Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useParam } from "../../url";

type Environment = Schemas["Environment"];
type Role = Environment["roles"][number];
const ROLES: Role[] = ["operator", "approver", "admin"];
const DAY_S = 86_400;

/** A canary of one share; all else is the service's usual. */
export function canaryOf(share: number): Schemas["CanaryConfig"] {
  return { share } as Schemas["CanaryConfig"];
}

export function Environments() {
  const query = $api.useQuery("get", "/api/v1/environments");
  const [name] = useParam("name");
  return (
    <Loaded query={query} what="the environments">
      {(page) => (
        <>
          <Table
            caption="Environments"
            columns={ENVIRONMENTS}
            rows={page.data}
            rowKey={(each) => each.name}
            href={(each) => `/promotions?tab=environments&name=${each.name}`}
            empty={
              <Empty title="No environment yet">
                Without one an alias moves as soon as the policy allows it.
              </Empty>
            }
          />
          <May call="PUT /api/v1/environments/{name}">
            <EnvironmentForm key={name} of={page.data.find((each) => each.name === name) ?? null} />
          </May>
        </>
      )}
    </Loaded>
  );
}

function EnvironmentForm({ of }: { of: Environment | null }) {
  const [, setChosen] = useParam("name");
  const [name, setName] = useState(of?.name ?? "");
  const [approvals, setApprovals] = useState(String(of?.approvals ?? 1));
  const [roles, setRoles] = useState<Role[]>(of?.roles ?? ["approver", "admin"]);
  const [after, setAfter] = useState(of?.after ?? "");
  const [days, setDays] = useState(String((of?.expires_after_s ?? 7 * DAY_S) / DAY_S));
  const [policy, setPolicy] = useState(of?.policy ?? "");
  const before = of?.canary ?? null;
  const [share, setShare] = useState(before?.share == null ? "" : String(before.share));
  const stepped = Boolean(before?.steps?.length);
  const run = async () => {
    const canary = stepped ? before : share ? { ...(before ?? {}), ...canaryOf(Number(share)) } : null;
    await api.PUT("/api/v1/environments/{name}", {
      params: { path: { name } },
      body: {
        approvals: Number(approvals),
        roles,
        after: after || null,
        expires_after_s: Math.round(Number(days) * DAY_S),
        policy: policy || null,
        canary,
      },
    });
    setChosen(name);
  };
  return (
    <Panel title={of ? `Change ${of.name}` : "New environment"}>
      <CallForm
        call="PUT /api/v1/environments/{name}"
        action="Save"
        disabled={!name || roles.length === 0}
        run={run}
      >
        <div className="pair">
          <Field label="Name" hint="Of the aliases that it is about">
            <Input value={name} disabled={of !== null} onChange={(event) => setName(event.target.value)} />
          </Field>
          <Field label="Approvals">
            <Input
              inputMode="numeric"
              value={approvals}
              onChange={(event) => setApprovals(event.target.value)}
            />
          </Field>
          <Field label="After" hint="An alias that the version must have been at; empty: none">
            <Input value={after} onChange={(event) => setAfter(event.target.value)} />
          </Field>
          <Field label="Days until a request ends">
            <Input inputMode="decimal" value={days} onChange={(event) => setDays(event.target.value)} />
          </Field>
          <Field label="Policy" hint="Empty: the usual one">
            <Input value={policy} onChange={(event) => setPolicy(event.target.value)} />
          </Field>
          <Field
            label="Canary's share"
            hint={stepped ? "It has steps, which stay: the command changes them" : "Empty: no canary"}
          >
            <Input
              inputMode="decimal"
              value={share}
              disabled={stepped}
              onChange={(event) => setShare(event.target.value)}
            />
          </Field>
        </div>
        <fieldset className="plain actions">
          <legend>Whose approvals count</legend>
          {ROLES.map((role) => (
            <Tick
              key={role}
              label={role}
              value={roles.includes(role)}
              change={(on) => setRoles(on ? [...roles, role] : roles.filter((each) => each !== role))}
            />
          ))}
        </fieldset>
      </CallForm>
    </Panel>
  );
}

function canaryText({ canary }: Environment): string {
  if (!canary) return DASH;
  if (canary.steps?.length) return canary.steps.map((each) => percent(each)).join(", ");
  return percent(canary.share ?? 0.1);
}

const ENVIRONMENTS: Column<Environment>[] = [
  { id: "name", label: "Environment", cell: (each) => each.name },
  { id: "approvals", label: "Approvals", num: true, cell: (each) => each.approvals },
  { id: "roles", label: "Of", cell: (each) => each.roles.join(", ") },
  { id: "after", label: "After", cell: (each) => each.after ?? DASH },
  { id: "expires", label: "A request ends after", num: true, cell: (each) => duration(each.expires_after_s) },
  { id: "policy", label: "Policy", cell: (each) => each.policy ?? "the usual one" },
  { id: "canary", label: "Canary", cell: canaryText },
];
