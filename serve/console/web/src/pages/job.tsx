/** One job: its state, why it ended so, what it was told, its log. */
import { useParams } from "wouter";
import { $api, type Schemas } from "../api";
import { DASH, duration, since, when } from "../fmt";
import { Facts, Pre, StateMark } from "../ui/controls";
import { Page, Panel } from "../ui/page";
import { Loaded, Notice } from "../ui/state";
import { JobActions, JobLog, Steps } from "./job-parts";

export default function JobPage() {
  const { id = "" } = useParams();
  const query = $api.useQuery("get", "/api/v1/jobs/{job_id}", { params: { path: { job_id: id } } });
  const job = query.data;
  return (
    <Page title={job ? `${job.name} ${job.step}` : "Job"} actions={job && <JobActions job={job} />}>
      <Loaded query={query} what="this job">
        {(found) => (
          <>
            <JobFacts job={found} />
            {found.error && <Notice kind={found.state === "succeeded" ? "run" : "bad"}>{found.error}</Notice>}
            <div className="panels">
              {found.pipeline_id && <Steps pipelineId={found.pipeline_id} jobId={found.id} />}
              <Json title="Configuration" value={found.config} />
              {found.result && <Json title="Result" value={found.result} />}
            </div>
            <JobLog job={found} />
          </>
        )}
      </Loaded>
    </Page>
  );
}

export function JobFacts({ job }: { job: Schemas["Job"] }) {
  return (
    <Facts
      of={[
        ["State", <StateMark key="state" state={job.state} />],
        ["Kind", job.kind],
        ["Queue", job.queue],
        ["Attempt", `${job.attempt} of ${job.max_attempts}`],
        ["Created (UTC)", when(job.created_at, true)],
        ["Started", when(job.started_at, true)],
        ["Took", duration(since(job.started_at, job.finished_at))],
        ["Worker", job.worker ?? DASH],
        ["Id", job.id],
      ]}
    />
  );
}

export function Json({ title, value }: { title: string; value: unknown }) {
  return (
    <Panel title={title}>
      <Pre label={title}>{JSON.stringify(value, null, 2)}</Pre>
    </Panel>
  );
}
