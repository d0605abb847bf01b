/** What the pages of a job and of a run share: what may be done with it, its log, the steps beside it. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef } from "react";
import { Link } from "wouter";
import { $api, api, type Schemas } from "../api";
import { duration, since } from "../fmt";
import { save } from "../save";
import { Action } from "../ui/action";
import { Button, Pre, StateMark } from "../ui/controls";
import { Panel } from "../ui/page";
import { Loaded } from "../ui/state";

type Job = Schemas["Job"];

export const RUN_KINDS = ["pretrain", "train", "tune"];

export function addressOf(job: Pick<Job, "id" | "kind">): string {
  return RUN_KINDS.includes(job.kind) ? `/runs/${job.id}` : `/jobs/${job.id}`;
}

/** Only what its state allows. */
export function JobActions({ job }: { job: Job }) {
  const path = { params: { path: { job_id: job.id } } };
  const open = ["queued", "running"].includes(job.state);
  const bad = ["failed", "dead", "cancelled"].includes(job.state);
  const asked = job.cancel_requested_at ?? job.pause_requested_at;
  return (
    <>
      {open && (
        <Action
          call="POST /api/v1/jobs/{job_id}/pause"
          label="Pause"
          disabled={Boolean(asked)}
          run={() => api.POST("/api/v1/jobs/{job_id}/pause", path)}
        />
      )}
      {job.state === "paused" && (
        <Action
          call="POST /api/v1/jobs/{job_id}/resume"
          label="Resume"
          look="main"
          run={() => api.POST("/api/v1/jobs/{job_id}/resume", path)}
        />
      )}
      {bad && (
        <Action
          call="POST /api/v1/jobs/{job_id}/retry"
          label="Retry"
          look="main"
          run={() => api.POST("/api/v1/jobs/{job_id}/retry", path)}
        />
      )}
      {(open || job.state === "paused") && (
        <Action
          call="POST /api/v1/jobs/{job_id}/cancel"
          label="Cancel"
          look="bad"
          disabled={Boolean(job.cancel_requested_at)}
          confirm={{
            title: `Cancel ${job.name} ${job.step}?`,
            text: "Nothing of it counts from then on, and the steps that wait for it are cancelled too. A retry begins at its last checkpoint.",
          }}
          run={() => api.POST("/api/v1/jobs/{job_id}/cancel", path)}
        />
      )}
      {asked && !["cancelled", "paused"].includes(job.state) && open && (
        <span className="small">{job.cancel_requested_at ? "is being cancelled" : "is being paused"}</span>
      )}
    </>
  );
}

type Log = { text: string; next: number; ended: boolean; cut: boolean };
const MOST_CHARS = 1_000_000;
const LOG = ["get", "/api/v1/jobs/{job_id}/logs"];

/** The whole log of the newest attempt, from its beginning, and on as it grows. */
export function JobLog({ job }: { job: Job }) {
  const client = useQueryClient();
  const key = [...LOG, { params: { path: { job_id: job.id } }, attempt: job.epoch }];
  const query = useQuery({
    queryKey: key,
    queryFn: async () => {
      let log = client.getQueryData<Log>(key) ?? { text: "", next: 0, ended: false, cut: false };
      for (let more = !log.ended; more; ) {
        const { data } = await api.GET("/api/v1/jobs/{job_id}/logs", {
          params: { path: { job_id: job.id }, query: { after: log.next } },
        });
        if (!data) break;
        const whole = log.text + data.text;
        more = data.text !== "" && !data.ended;
        log = {
          text: whole.slice(-MOST_CHARS),
          next: data.next,
          ended: data.ended,
          cut: log.cut || whole.length > MOST_CHARS,
        };
      }
      return log;
    },
    refetchInterval: (query) => (query.state.data?.ended ? false : 2_000),
  });
  const box = useRef<HTMLElement>(null);
  const text = query.data?.text;
  // biome-ignore lint/correctness/useExhaustiveDependencies: follows the end as the text grows
  useEffect(() => {
    const pre = box.current;
    if (pre && pre.scrollHeight - pre.scrollTop - pre.clientHeight < 200) pre.scrollTop = pre.scrollHeight;
  }, [text]);
  return (
    <Panel
      title="Log"
      actions={
        text ? (
          <Button look="quiet" onClick={() => save(`${job.name}-${job.id}.log`, text)}>
            Save
          </Button>
        ) : undefined
      }
    >
      <Loaded query={query} what="the log">
        {(log) =>
          log.text === "" ? (
            <p className="small">Nothing was written yet.</p>
          ) : (
            <>
              {log.cut && <p className="small">The end of it: the beginning is too long to show.</p>}
              <Pre label="Log" ref={box}>
                {log.text}
              </Pre>
            </>
          )
        }
      </Loaded>
    </Panel>
  );
}

/** The steps of the recipe that a job is one of. */
export function Steps({ pipelineId, jobId }: { pipelineId: string; jobId: string }) {
  const query = $api.useQuery("get", "/api/v1/pipelines/{pipeline_id}", {
    params: { path: { pipeline_id: pipelineId } },
  });
  const path = { params: { path: { pipeline_id: pipelineId } } };
  return (
    <Panel
      title="Recipe"
      actions={
        query.data?.state === "running" ? (
          <Action
            call="POST /api/v1/pipelines/{pipeline_id}/cancel"
            label="Cancel the recipe"
            look="bad"
            confirm={{
              title: `Cancel all steps of ${query.data.name}?`,
              text: "Steps that have ended stay as they are; nothing of the others counts from then on.",
            }}
            run={() => api.POST("/api/v1/pipelines/{pipeline_id}/cancel", path)}
          />
        ) : undefined
      }
    >
      <Loaded query={query} what="the recipe">
        {(pipeline) => (
          <ol className="steps">
            {pipeline.jobs?.map((each) => (
              <li key={each.id}>
                {each.id === jobId ? <b>{each.step}</b> : <Link href={addressOf(each)}>{each.step}</Link>}
                <StateMark state={each.state} />
                <span className="mono">{duration(since(each.started_at, each.finished_at))}</span>
              </li>
            ))}
          </ol>
        )}
      </Loaded>
    </Panel>
  );
}
