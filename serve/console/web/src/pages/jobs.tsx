/** Jobs and training runs: filters, tab and page stand in the address. Read this one before you write another. */
import { useCallback, useState } from "react";
import { $api, api, queryClient, type Schemas } from "../api";
import { DASH, duration, num, short, sig, since, when } from "../fmt";
import { useMay } from "../session";
import { Button, ButtonLink, Field, Input, Select, StateMark, Tabs } from "../ui/controls";
import { Confirm } from "../ui/dialog";
import { May, Page } from "../ui/page";
import { Empty, Loaded, Notice } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useParam, useTyped } from "../url";
import { addressOf } from "./job-parts";

type Job = Schemas["Job"];
type Run = Schemas["Run"];
const STATES = ["queued", "running", "paused", "succeeded", "failed", "cancelled", "dead"] as const;
const TABS = [
  ["jobs", "Jobs"],
  ["runs", "Training runs"],
] as const;

export default function Jobs() {
  const [tab, setTab] = useParam("tab", "jobs");
  return (
    <Page
      title="Jobs and runs"
      actions={
        <May call="POST /api/v1/pipelines">
          <ButtonLink href="/new" look="main">
            New run
          </ButtonLink>
        </May>
      }
    >
      <Tabs label="What is listed" tabs={TABS} chosen={tab} choose={setTab}>
        {tab === "runs" ? <RunList /> : <JobList />}
      </Tabs>
    </Page>
  );
}

function JobList() {
  const [state, setState] = useParam("state");
  const [name, setName, named] = useTyped("name");
  const [kind, setKind, ofKind] = useTyped("kind");
  const [queue, setQueue] = useParam("queue");
  const cursor = useCursor();
  const [marked, mark] = useMarks();
  const queues = $api.useQuery("get", "/api/v1/queues");
  const query = $api.useQuery(
    "get",
    "/api/v1/jobs",
    {
      params: {
        query: {
          limit: 50,
          state: STATES.find((each) => each === state),
          name: named || undefined,
          kind: ofKind || undefined,
          queue: queue || undefined,
          cursor,
        },
      },
    },
    { placeholderData: (before) => before }, // old rows stay until new ones are there
  );
  const filtered = Boolean(state || named || ofKind || queue);
  return (
    <>
      <search className="filters">
        <Field label="Name">
          <Input data-search value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <StateFilter value={state} change={setState} />
        <Field label="Kind">
          <Input value={kind} onChange={(event) => setKind(event.target.value)} />
        </Field>
        <Field label="Queue">
          <Select
            value={queue}
            options={[["", "any"], ...(queues.data?.data ?? []).map((each) => each.name)]}
            onChange={(event) => setQueue(event.target.value)}
          />
        </Field>
        <Batch marked={marked} clear={() => mark(null)} />
      </search>
      <Loaded query={query} what="the jobs" rows={12}>
        {(page) => (
          <Table
            caption="Jobs, newest first"
            columns={JOBS}
            rows={page.data}
            rowKey={(job) => job.id}
            href={addressOf}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            marked={marked}
            onMark={mark}
            empty={
              filtered ? (
                <Empty title="No job fits these filters">
                  Name and kind are whole words, such as <code>support-triage</code> and <code>train</code>.
                </Empty>
              ) : (
                <Empty title="No job yet">
                  Start one under New run, or: <code>raymill run recipe.yaml</code>
                </Empty>
              )
            }
          />
        )}
      </Loaded>
    </>
  );
}

function RunList() {
  const [state, setState] = useParam("state");
  const [name, setName, named] = useTyped("name");
  const cursor = useCursor();
  const [marked, mark] = useMarks();
  const query = $api.useQuery(
    "get",
    "/api/v1/runs",
    {
      params: {
        query: { limit: 50, state: STATES.find((each) => each === state), name: named || undefined, cursor },
      },
    },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <search className="filters">
        <Field label="Model">
          <Input data-search value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <StateFilter value={state} change={setState} />
        {marked.size > 1 && (
          <ButtonLink href={`/runs/compare?ids=${[...marked].join(",")}`} look="main">
            Lay {String(marked.size)} over each other
          </ButtonLink>
        )}
      </search>
      <Loaded query={query} what="the training runs" rows={12}>
        {(page) => (
          <Table
            caption="Training runs, newest first"
            columns={RUNS}
            rows={page.data}
            rowKey={(run) => run.id}
            href={runAddress}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            marked={marked}
            onMark={mark}
            empty={
              state || named ? (
                <Empty title="No run fits these filters" />
              ) : (
                <Empty title="No training run yet">
                  Start one under New run, or: <code>raymill train recipe.yaml</code>
                </Empty>
              )
            }
          />
        )}
      </Loaded>
    </>
  );
}

function StateFilter({ value, change }: { value: string; change: (next: string) => void }) {
  return (
    <Field label="State">
      <Select
        value={value}
        options={[["", "any"], ...STATES]}
        onChange={(event) => change(event.target.value)}
      />
    </Field>
  );
}

/** Marked rows stay marked from page to page. */
function useMarks(): [ReadonlySet<string>, (key: string | null) => void] {
  const [marked, set] = useState<ReadonlySet<string>>(new Set());
  const turn = useCallback(
    (key: string | null) =>
      set((before) => {
        if (key === null) return new Set();
        const after = new Set(before);
        if (!after.delete(key)) after.add(key);
        return after;
      }),
    [],
  );
  return [marked, turn];
}

/** The same for all marked jobs; what was refused is told by job. */
function Batch({ marked, clear }: { marked: ReadonlySet<string>; clear: () => void }) {
  const [asking, ask] = useState<"cancel" | "retry" | null>(null);
  const [told, tell] = useState<{ done: number; refused: string[] } | null>(null);
  const may = {
    cancel: useMay("POST /api/v1/jobs/{job_id}/cancel"),
    retry: useMay("POST /api/v1/jobs/{job_id}/retry"),
  };
  const run = async () => {
    const refused: string[] = [];
    for (const id of marked) {
      const path = { params: { path: { job_id: id } } };
      try {
        if (asking === "cancel") await api.POST("/api/v1/jobs/{job_id}/cancel", path);
        else await api.POST("/api/v1/jobs/{job_id}/retry", path);
      } catch (error) {
        refused.push(`${short(id)}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    tell({ done: marked.size - refused.length, refused });
    clear();
    await queryClient.invalidateQueries();
  };
  if (!may.cancel && !may.retry) return null;
  return (
    <>
      {marked.size > 0 && (
        <div className="actions">
          {may.retry && <Button onClick={() => ask("retry")}>Retry {marked.size}</Button>}
          {may.cancel && (
            <Button look="bad" onClick={() => ask("cancel")}>
              Cancel {marked.size}
            </Button>
          )}
        </div>
      )}
      {asking && (
        <Confirm
          title={`${asking === "cancel" ? "Cancel" : "Retry"} ${marked.size} jobs?`}
          action={asking === "cancel" ? "Cancel them" : "Retry them"}
          bad={asking === "cancel"}
          run={run}
          close={() => ask(null)}
        >
          <p>Those whose state does not allow it stay as they are, and are told.</p>
        </Confirm>
      )}
      {told && (
        <Notice kind={told.refused.length ? "warn" : "ok"}>
          {num(told.done)} done. {told.refused.join(" ")}
        </Notice>
      )}
    </>
  );
}

function metric(run: Run, ...names: string[]): number | null {
  for (const name of names) {
    const value = run.metrics[name];
    if (typeof value === "number") return value;
  }
  return null;
}

const runAddress = (run: Run) => `/runs/${run.id}`;

const JOBS: Column<Job>[] = [
  { id: "name", label: "Name", cell: (job) => job.name, sort: (job) => job.name },
  { id: "step", label: "Step", cell: (job) => job.step, sort: (job) => job.step },
  { id: "state", label: "State", cell: (job) => <StateMark state={job.state} />, sort: (job) => job.state },
  { id: "queue", label: "Queue", cell: (job) => job.queue },
  { id: "attempt", label: "Attempt", num: true, cell: (job) => `${job.attempt}/${job.max_attempts}` },
  {
    id: "created",
    label: "Created (UTC)",
    num: true,
    cell: (job) => when(job.created_at),
    sort: (job) => job.created_at,
  },
  {
    id: "took",
    label: "Took",
    num: true,
    cell: (job) => duration(since(job.started_at, job.finished_at)),
    sort: (job) => since(job.started_at, job.finished_at),
  },
  { id: "id", label: "Id", num: true, cell: (job) => short(job.id) },
];

const RUNS: Column<Run>[] = [
  { id: "name", label: "Model", cell: (run) => run.name, sort: (run) => run.name },
  { id: "id", label: "Id", num: true, cell: (run) => short(run.id) },
  { id: "method", label: "Method", cell: (run) => run.method, sort: (run) => run.method },
  { id: "state", label: "State", cell: (run) => <StateMark state={run.state} />, sort: (run) => run.state },
  {
    id: "step",
    label: "Step",
    num: true,
    cell: (run) => `${num(run.step)}/${run.steps === null ? DASH : num(run.steps)}`,
  },
  {
    id: "loss",
    label: "Loss",
    num: true,
    cell: (run) => sig(metric(run, "final_loss", "loss")),
    sort: (run) => metric(run, "final_loss", "loss"),
  },
  {
    id: "validation",
    label: "Validation",
    num: true,
    cell: (run) => sig(metric(run, "validation_loss")),
    sort: (run) => metric(run, "validation_loss"),
  },
  {
    id: "speed",
    label: "Tokens/s",
    num: true,
    cell: (run) => num(metric(run, "tokens_per_s")),
    sort: (run) => metric(run, "tokens_per_s"),
  },
  {
    id: "version",
    label: "Version",
    num: true,
    cell: (run) => (run.version === null ? DASH : run.version),
    sort: (run) => run.version,
  },
  {
    id: "created",
    label: "Created (UTC)",
    num: true,
    cell: (run) => when(run.created_at),
    sort: (run) => run.created_at,
  },
  { id: "took", label: "Took", num: true, cell: (run) => duration(since(run.started_at, run.finished_at)) },
];
