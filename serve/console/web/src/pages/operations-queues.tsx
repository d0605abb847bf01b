/** Queues: how each is doing, how many of its jobs run at once, and stopping it. */
import { useState } from "react";
import { $api, api, queryClient, type Schemas } from "../api";
import { DASH, duration, num } from "../fmt";
import { useMay } from "../session";
import { Action } from "../ui/action";
import { Button, Field, Input, Select, StateMark } from "../ui/controls";
import { Confirm } from "../ui/dialog";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { whole } from "../whole";

type Queue = Schemas["QueueStats"];
type Runner = Queue["runner"];
type Draft = { name: string; runner: Runner; most: string; fresh: boolean };

export function Queues() {
  const [draft, edit] = useState<Draft | null>(null);
  const may = useMay("PUT /api/v1/queues/{name}");
  const query = $api.useQuery("get", "/api/v1/jobs/stats");
  const columns: Column<Queue>[] = [
    ...COLUMNS,
    {
      id: "do",
      label: "Do",
      cell: (queue) => (
        <div className="actions">
          <Turn queue={queue} />
          {may && (
            <Button
              aria-label={`Limit of ${queue.queue}`}
              onClick={() =>
                edit({
                  name: queue.queue,
                  runner: queue.runner,
                  most: queue.max_running === null ? "" : String(queue.max_running),
                  fresh: false,
                })
              }
            >
              Limit
            </Button>
          )}
        </div>
      ),
    },
  ];
  return (
    <>
      {may && (
        <div className="actions">
          <Button onClick={() => edit({ name: "", runner: "short", most: "", fresh: true })}>
            New queue
          </Button>
        </div>
      )}
      <Loaded query={query} what="the queues">
        {(stats) => (
          <Table
            caption="Queues, by name"
            columns={columns}
            rows={stats.queues}
            rowKey={(queue) => queue.queue}
            href={(queue) => `/jobs?queue=${queue.queue}`}
            empty={<Empty title="No queue yet">The first job makes one.</Empty>}
          />
        )}
      </Loaded>
      {draft && <Settings draft={draft} change={edit} />}
    </>
  );
}

function Turn({ queue }: { queue: Queue }) {
  const path = { params: { path: { name: queue.queue } } };
  return queue.paused_at ? (
    <Action
      call="POST /api/v1/queues/{name}/resume"
      label="Resume"
      look="main"
      run={() => api.POST("/api/v1/queues/{name}/resume", path)}
    />
  ) : (
    <Action
      call="POST /api/v1/queues/{name}/pause"
      label="Pause"
      confirm={{
        title: `Pause the queue ${queue.queue}?`,
        text: "None of its jobs is started until it is resumed; those that run go on.",
      }}
      run={() => api.POST("/api/v1/queues/{name}/pause", path)}
    />
  );
}

function Settings({ draft, change }: { draft: Draft; change: (draft: Draft | null) => void }) {
  const { name, runner, most, fresh } = draft;
  const run = async () => {
    await api.PUT("/api/v1/queues/{name}", {
      params: { path: { name } },
      body: { max_running: whole(most), runner: fresh ? runner : null },
    });
    await queryClient.invalidateQueries();
  };
  return (
    <Confirm
      title={fresh ? "New queue" : `Limit of ${name}`}
      action={fresh ? "Make it" : "Set it"}
      run={run}
      close={() => change(null)}
    >
      {fresh && (
        <>
          <Field label="Name" hint="Lower case, such as nightly">
            <Input value={name} onChange={(event) => change({ ...draft, name: event.target.value })} />
          </Field>
          <Field label="Its jobs are">
            <Select
              value={runner}
              options={[
                ["short", "short: the warm pool runs them"],
                ["heavy", "heavy: a Ray job for each"],
              ]}
              onChange={(event) => change({ ...draft, runner: event.target.value as Runner })}
            />
          </Field>
        </>
      )}
      <Field label="Jobs at once" hint="Empty: as many as there are workers for">
        <Input
          inputMode="numeric"
          value={most}
          onChange={(event) => change({ ...draft, most: event.target.value })}
        />
      </Field>
    </Confirm>
  );
}

const COLUMNS: Column<Queue>[] = [
  { id: "queue", label: "Queue", cell: (queue) => queue.queue, sort: (queue) => queue.queue },
  {
    id: "state",
    label: "State",
    cell: (queue) => <StateMark state={queue.paused_at ? "paused" : "ready"} />,
  },
  { id: "runner", label: "Runner", cell: (queue) => queue.runner },
  {
    id: "running",
    label: "Runs",
    num: true,
    cell: (queue) => `${num(queue.running)}/${queue.max_running === null ? DASH : num(queue.max_running)}`,
    sort: (queue) => queue.running,
  },
  { id: "ready", label: "Ready", num: true, cell: (queue) => num(queue.ready), sort: (queue) => queue.ready },
  { id: "scheduled", label: "Due later", num: true, cell: (queue) => num(queue.scheduled) },
  { id: "waiting", label: "Waiting", num: true, cell: (queue) => num(queue.waiting) },
  { id: "dead", label: "Dead", num: true, cell: (queue) => num(queue.dead), sort: (queue) => queue.dead },
  { id: "failed", label: "Failed, 24 h", num: true, cell: (queue) => num(queue.failed_last_day) },
  { id: "finished", label: "Ended, 1 h", num: true, cell: (queue) => num(queue.finished_last_hour) },
  {
    id: "oldest",
    label: "Oldest",
    num: true,
    cell: (queue) => duration(queue.oldest_ready_s),
    sort: (queue) => queue.oldest_ready_s,
  },
  {
    id: "start",
    label: "Start p50, p99",
    num: true,
    cell: (queue) => `${duration(queue.start_p50_s)}, ${duration(queue.start_p99_s)}`,
    sort: (queue) => queue.start_p99_s,
  },
];
