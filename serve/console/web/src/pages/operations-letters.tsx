/** Jobs that ended badly: why, and running them again, one or all that match. */
import { useState } from "react";
import { $api, api, queryClient, type Schemas } from "../api";
import { DASH, num, when } from "../fmt";
import { useMay } from "../session";
import { Action } from "../ui/action";
import { Button, Field, Input, Select } from "../ui/controls";
import { Confirm } from "../ui/dialog";
import { Empty, Loaded, Notice } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useParam, useTyped } from "../url";
import { addressOf } from "./job-parts";

type Job = Schemas["Job"];
type BadEnd = Schemas["Redrive"]["states"][number];
const ENDS: readonly BadEnd[] = ["dead", "failed", "cancelled"];
const MOST = 1000;

export function DeadLetters() {
  const [state, setState] = useParam("state", "dead");
  const [kind, setKind, ofKind] = useTyped("kind");
  const [queue, setQueue] = useParam("queue");
  const cursor = useCursor();
  const queues = $api.useQuery("get", "/api/v1/queues");
  const end = ENDS.find((each) => each === state) ?? "dead";
  const query = $api.useQuery(
    "get",
    "/api/v1/jobs",
    {
      params: {
        query: { limit: 50, state: end, kind: ofKind || undefined, queue: queue || undefined, cursor },
      },
    },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <search className="filters">
        <Field label="Ended as">
          <Select value={end} options={ENDS} onChange={(event) => setState(event.target.value)} />
        </Field>
        <Field label="Kind">
          <Input data-search value={kind} onChange={(event) => setKind(event.target.value)} />
        </Field>
        <Field label="Queue">
          <Select
            value={queue}
            options={[["", "any"], ...(queues.data?.data ?? []).map((each) => each.name)]}
            onChange={(event) => setQueue(event.target.value)}
          />
        </Field>
      </search>
      <RedriveAll end={end} kind={ofKind} queue={queue} />
      <Loaded query={query} what="the dead letters" rows={8}>
        {(page) => (
          <Table
            caption="Jobs that ended badly, newest first"
            columns={COLUMNS}
            rows={page.data}
            rowKey={(job) => job.id}
            href={addressOf}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              ofKind || queue ? (
                <Empty title="No job fits these filters" />
              ) : (
                <Empty title={`No job is ${end}`}>
                  {end === "dead" && "A job is dead when it has failed as often as it may."}
                </Empty>
              )
            }
          />
        )}
      </Loaded>
    </>
  );
}

/** All that match the filters, and an error's text if one is given: oldest first. */
function RedriveAll({ end, kind, queue }: { end: BadEnd; kind: string; queue: string }) {
  const may = useMay("POST /api/v1/jobs/redrive");
  const [asking, ask] = useState(false);
  const [text, setText] = useState("");
  const [again, tell] = useState<number | null>(null);
  if (!may) return null;
  const run = async () => {
    const { data } = await api.POST("/api/v1/jobs/redrive", {
      body: { states: [end], kind: kind || null, queue: queue || null, error: text || null, limit: MOST },
    });
    tell(data?.ids.length ?? 0);
    await queryClient.invalidateQueries();
  };
  return (
    <>
      <div className="actions">
        <Button onClick={() => ask(true)}>Redrive all that match</Button>
      </div>
      {again !== null && (
        <Notice kind={again > 0 ? "ok" : "warn"}>
          {again > 0
            ? `${num(again)} run again.`
            : "None runs again: those that match may wait for a step before them."}
        </Notice>
      )}
      {asking && (
        <Confirm
          title={`Redrive jobs that are ${end}?`}
          action="Run them again"
          run={run}
          close={() => ask(false)}
        >
          <p>
            {kind ? `Of the kind ${kind}` : "Of every kind"},{" "}
            {queue ? `in the queue ${queue}` : "in every queue"}; {num(MOST)} at most, the oldest first. Each
            has all its tries again, and with it the steps that its end had ended.
          </p>
          <Field label="Only where the error holds" hint="Such as: connection refused. Empty: all">
            <Input value={text} onChange={(event) => setText(event.target.value)} />
          </Field>
        </Confirm>
      )}
    </>
  );
}

const COLUMNS: Column<Job>[] = [
  { id: "name", label: "Name", cell: (job) => `${job.name} ${job.step}`, sort: (job) => job.name },
  { id: "kind", label: "Kind", cell: (job) => job.kind, sort: (job) => job.kind },
  { id: "queue", label: "Queue", cell: (job) => job.queue, sort: (job) => job.queue },
  { id: "attempt", label: "Attempts", num: true, cell: (job) => `${job.attempt}/${job.max_attempts}` },
  { id: "error", label: "Error", cell: (job) => <span className="wrap">{job.error ?? DASH}</span> },
  {
    id: "ended",
    label: "Ended (UTC)",
    num: true,
    cell: (job) => when(job.finished_at),
    sort: (job) => job.finished_at,
  },
  {
    id: "do",
    label: "Do",
    cell: (job) => (
      <Action
        call="POST /api/v1/jobs/{job_id}/retry"
        label="Redrive"
        run={() => api.POST("/api/v1/jobs/{job_id}/retry", { params: { path: { job_id: job.id } } })}
      />
    ),
  },
];
