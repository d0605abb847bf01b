/** What needs somebody, what runs, what waits and why, what is served, and spend today: one call. */
import { Link } from "wouter";
import { $api, type Schemas } from "../api";
import { DASH, duration, num, percent, short, si, sig, since, usd, when } from "../fmt";
import { Bar, ButtonLink, Facts, StateMark } from "../ui/controls";
import { May, Page, Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";

type Data = Schemas["Overview"];
type Need = Schemas["Need"];

const SIGNS: Record<Need["kind"], [string, string, string]> = {
  approval: ["?", "approval", "run"],
  dead: ["✕", "dead letter", "bad"],
  failed: ["✕", "failed", "bad"],
  drift: ["!", "drift", "warn"],
  breaker: ["!", "breaker", "warn"],
  deployment: ["✕", "not served", "bad"],
};

export default function Overview() {
  const query = $api.useQuery("get", "/api/v1/overview", {}, { refetchInterval: 10_000 });
  return (
    <Page
      title="Overview"
      actions={
        <May call="POST /api/v1/pipelines">
          <ButtonLink href="/new" look="main">
            New run
          </ButtonLink>
        </May>
      }
    >
      <Loaded query={query} what="the overview" rows={8}>
        {(data) => (
          <>
            <Panel title="Needs somebody">
              <Table
                caption="What needs somebody"
                columns={NEEDS}
                rows={data.needs}
                rowKey={(need) => `${need.kind} ${need.id ?? need.name}`}
                href={addressOf}
                empty={
                  <Empty title="Nothing needs you">No approval waits, no job is dead, nothing drifts.</Empty>
                }
              />
            </Panel>
            <div className="panels">
              <Running data={data} />
              <Today data={data} />
            </div>
            <Panel title={`Waits: ${num(data.waiting_jobs)}`}>
              <Table
                caption="What waits, and for what"
                columns={WAITING}
                rows={data.waiting}
                rowKey={(each) => each.id}
                href={(each) => `/jobs/${each.id}`}
                empty={<Empty title="Nothing waits" />}
              />
            </Panel>
            <Panel title="Served">
              <Table
                caption="What is served"
                columns={SERVED}
                rows={data.served}
                rowKey={(each) => `${each.llm}@${each.alias}`}
                href={(each) => `/registry/${each.llm}`}
                empty={
                  <Empty title="Nothing is served">A version that is promoted with a serve section is.</Empty>
                }
              />
            </Panel>
          </>
        )}
      </Loaded>
    </Page>
  );
}

function Running({ data }: { data: Data }) {
  return (
    <Panel title={`Runs: ${num(data.running_jobs)} ${data.running_jobs === 1 ? "job" : "jobs"}`}>
      {data.running.length === 0 && <Empty title="No training runs" />}
      {data.running.map((run) => (
        <div key={run.id} className="row-run">
          <Link href={`/runs/${run.id}`}>
            {run.name} {short(run.id)}
          </Link>
          <Bar share={run.steps ? run.step / run.steps : 0} label={`Progress of ${run.name}`} />
          <span className="mono">
            {num(run.step)}/{run.steps ? num(run.steps) : DASH}
          </span>
          <span className="mono">loss {sig(numberOf(run.metrics.loss))}</span>
          <span className="mono">{duration(since(run.started_at))}</span>
        </div>
      ))}
    </Panel>
  );
}

function Today({ data }: { data: Data }) {
  const { today } = data;
  return (
    <Panel title="Gateway today">
      <Facts
        of={[
          ["Spend", usd(today.cost_micro_usd / 1e6)],
          ["Requests", num(today.requests)],
          ["Errors", today.requests ? percent(today.error_rate) : DASH],
          ["Prompt tokens", si(today.prompt_tokens)],
          ["Completion tokens", si(today.completion_tokens)],
          ["p50", today.latency_p50_ms === null ? DASH : `${num(today.latency_p50_ms)} ms`],
        ]}
      />
      <p className="small">
        Since midnight, UTC. <Link href="/gateway">All usage</Link>
      </p>
    </Panel>
  );
}

function addressOf(need: Need): string {
  if (need.kind === "approval") return `/promotions?id=${need.id}`;
  if (need.kind === "drift") return "/evals?tab=drift";
  if (need.kind === "breaker") return "/gateway?tab=providers";
  if (need.kind === "deployment") return `/registry/${need.name.split("@")[0]}`;
  return `/jobs/${need.id}`;
}

function numberOf(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}

const NEEDS: Column<Need>[] = [
  { id: "name", label: "What", cell: (need) => need.name },
  {
    id: "kind",
    label: "Kind",
    sort: (need) => need.kind,
    cell: (need) => {
      const [sign, word, look] = SIGNS[need.kind];
      return (
        <span className={`mark mark-${look}`}>
          <span aria-hidden="true">{sign}</span> {word}
        </span>
      );
    },
  },
  { id: "text", label: "Why", cell: (need) => <span className="wrap">{need.text}</span> },
  { id: "at", label: "Since (UTC)", num: true, cell: (need) => when(need.at), sort: (need) => need.at },
];

const WAITING: Column<Schemas["Job"]>[] = [
  { id: "name", label: "Job", cell: (job) => `${job.name} ${job.step}` },
  { id: "queue", label: "Queue", cell: (job) => job.queue },
  { id: "why", label: "Waits because", cell: (job) => job.waiting ?? DASH },
  { id: "for", label: "For", num: true, cell: (job) => duration(since(job.created_at)) },
];

const SERVED: Column<Schemas["Deployment"]>[] = [
  { id: "llm", label: "Model", cell: (each) => each.llm },
  { id: "alias", label: "Alias", cell: (each) => each.alias },
  { id: "version", label: "Version", num: true, cell: (each) => each.version ?? DASH },
  { id: "state", label: "State", cell: (each) => <StateMark state={each.state} /> },
  { id: "message", label: "Message", cell: (each) => <span className="wrap">{each.message}</span> },
  { id: "updated", label: "Since (UTC)", num: true, cell: (each) => when(each.updated_at) },
];
