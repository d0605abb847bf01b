/** One training run: how far it is, its curves as they grow, its log, what it was told, the steps beside it. */
import { useParams } from "wouter";
import { $api, type Schemas } from "../api";
import { DASH, duration, num, short, si, sig, since } from "../fmt";
import { Bar, ButtonLink, Facts, StateMark } from "../ui/controls";
import { Page } from "../ui/page";
import { Loaded, Notice } from "../ui/state";
import { Json } from "./job";
import { JobActions, JobLog, Steps } from "./job-parts";
import { Curves } from "./run-curves";

type Run = Schemas["RunDetail"];

export default function RunPage() {
  const { id = "" } = useParams();
  const path = { params: { path: { run_id: id } } };
  const run = $api.useQuery("get", "/api/v1/runs/{run_id}", path);
  const points = $api.useQuery("get", "/api/v1/runs/{run_id}/points", path);
  const job = $api.useQuery("get", "/api/v1/jobs/{job_id}", { params: { path: { job_id: id } } });
  const title = run.data ? `${run.data.name} ${short(run.data.id)}` : "Run";
  return (
    <Page
      title={title}
      actions={
        <>
          <ButtonLink href={`/runs/compare?ids=${id}`}>Compare</ButtonLink>
          {job.data && <JobActions job={job.data} />}
        </>
      }
    >
      <Loaded query={run} what="this run">
        {(found) => (
          <>
            <Progress run={found} points={points.data?.points ?? []} />
            {found.error && <Notice kind="bad">{found.error}</Notice>}
            <Loaded query={points} what="its curves">
              {(told) => <Curves runs={[{ label: title, points: told.points }]} />}
            </Loaded>
            <div className="panels">
              {found.pipeline_id && <Steps pipelineId={found.pipeline_id} jobId={found.id} />}
              <Json title="Configuration, as it was started" value={found.config} />
            </div>
            {job.data && <JobLog job={job.data} />}
          </>
        )}
      </Loaded>
    </Page>
  );
}

function Progress({ run, points }: { run: Run; points: Schemas["RunPoints"]["points"] }) {
  const last = points.findLast((point) => typeof point.loss === "number");
  const number = (name: string) => {
    const value = last?.[name] ?? run.metrics[name];
    return typeof value === "number" ? value : null;
  };
  const share = run.steps ? run.step / run.steps : 0;
  return (
    <>
      <Bar share={share} label="Progress" />
      <Facts
        of={[
          ["State", <StateMark key="state" state={run.state} />],
          ["Step", `${num(run.step)} of ${run.steps === null ? DASH : num(run.steps)}`],
          ["Left", run.state === "running" ? duration(run.eta_s) : DASH],
          ["Loss", sig(number("loss") ?? number("final_loss"))],
          ["Learning rate", sig(number("lr"), 3)],
          ["Tokens/s", si(number("tokens_per_s"))],
          ["Took", duration(since(run.started_at, run.finished_at))],
          ["Method", run.method],
          ["Version", run.version === null ? DASH : String(run.version)],
        ]}
      />
    </>
  );
}
