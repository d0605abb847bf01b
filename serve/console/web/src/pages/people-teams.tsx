/** Teams: who is in them, what their jobs may hold at once, and disabling one. */
import { useState } from "react";
import { Link } from "wouter";
import { $api, api, type Schemas } from "../api";
import { DASH, when } from "../fmt";
import { useMay } from "../session";
import { Action } from "../ui/action";
import { CallForm } from "../ui/call-form";
import { Facts, Field, Input, StateMark } from "../ui/controls";
import { Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useParam } from "../url";
import { whole } from "../whole";

type Team = Schemas["Team"];
type Quota = Schemas["TeamQuota"];

export function Teams() {
  const [chosen] = useParam("team");
  const query = $api.useQuery("get", "/api/v1/teams");
  return (
    <>
      <NewTeam />
      {chosen && <QuotaOf key={chosen} team={chosen} />}
      <Loaded query={query} what="the teams">
        {(page) => (
          <Table
            caption="Teams, by name"
            columns={COLUMNS}
            rows={page.data}
            rowKey={(team) => team.name}
            href={(team) => `/people?tab=teams&team=${encodeURIComponent(team.name)}`}
            empty={
              <Empty title="No team yet">One bounds what its accounts spend, and what their jobs hold.</Empty>
            }
          />
        )}
      </Loaded>
    </>
  );
}

function NewTeam() {
  const [name, setName] = useState("");
  const run = async () => {
    await api.POST("/api/v1/teams", { body: { name } });
    setName("");
  };
  return (
    <CallForm call="POST /api/v1/teams" action="Make it" look="plain" disabled={!name} run={run}>
      <div className="filters">
        <Field label="New team">
          <Input value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
      </div>
    </CallForm>
  );
}

function QuotaOf({ team }: { team: string }) {
  const may = useMay("PATCH /api/v1/teams/{name}/quota");
  const query = $api.useQuery("get", "/api/v1/teams/{name}/quota", { params: { path: { name: team } } });
  return (
    <Panel
      title={`What jobs of ${team} may hold at once`}
      actions={<Link href="/people?tab=teams">Close</Link>}
    >
      <Loaded query={query} what="the quota">
        {(quota) => (
          <>
            <Facts
              of={[
                ["Jobs", held(quota.running, quota.max_running)],
                ["GPUs", held(quota.gpus, quota.max_gpus)],
                ["CPUs", held(quota.cpus, quota.max_cpus)],
                ["Jobs that wait", quota.queued],
              ]}
            />
            {may && (
              <QuotaForm
                key={`${quota.max_running} ${quota.max_gpus} ${quota.max_cpus}`}
                team={team}
                quota={quota}
              />
            )}
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function held(now: number, most: number | null): string {
  return `${now} of ${most ?? "any number"}`;
}

function QuotaForm({ team, quota }: { team: string; quota: Quota }) {
  const text = (bound: number | null) => (bound === null ? "" : String(bound));
  const [jobs, setJobs] = useState(text(quota.max_running));
  const [gpus, setGpus] = useState(text(quota.max_gpus));
  const [cpus, setCpus] = useState(text(quota.max_cpus));
  const fields = [
    ["Jobs", jobs, setJobs],
    ["GPUs", gpus, setGpus],
    ["CPUs", cpus, setCpus],
  ] as const;
  return (
    <>
      <div className="pair">
        {fields.map(([label, value, set]) => (
          <Field key={label} label={`${label} at most`} hint="Empty: any number">
            <Input inputMode="numeric" value={value} onChange={(event) => set(event.target.value)} />
          </Field>
        ))}
      </div>
      <div className="actions">
        <Action
          call="PATCH /api/v1/teams/{name}/quota"
          label="Set it"
          run={() =>
            api.PATCH("/api/v1/teams/{name}/quota", {
              params: { path: { name: team } },
              body: { max_running: whole(jobs), max_gpus: whole(gpus), max_cpus: whole(cpus) },
            })
          }
        />
      </div>
    </>
  );
}

const COLUMNS: Column<Team>[] = [
  { id: "name", label: "Team", cell: (team) => team.name, sort: (team) => team.name },
  {
    id: "state",
    label: "State",
    cell: (team) => <StateMark state={team.disabled_at ? "disabled" : "ready"} />,
  },
  {
    id: "accounts",
    label: "Accounts",
    cell: (team) => <span className="wrap">{team.accounts.join(", ") || DASH}</span>,
    sort: (team) => team.accounts.length,
  },
  { id: "created", label: "Created (UTC)", num: true, cell: (team) => when(team.created_at) },
  {
    id: "do",
    label: "Do",
    cell: (team) => (
      <Action
        key={team.disabled_at}
        call="PATCH /api/v1/teams/{name}"
        label={team.disabled_at ? "Enable" : "Disable"}
        look={team.disabled_at ? "plain" : "bad"}
        confirm={
          team.disabled_at
            ? undefined
            : {
                title: `Disable the team ${team.name}?`,
                text: "All its accounts are refused within a second, until it is enabled again.",
              }
        }
        run={() =>
          api.PATCH("/api/v1/teams/{name}", {
            params: { path: { name: team.name } },
            body: { disabled: !team.disabled_at },
          })
        }
      />
    ),
  },
];
