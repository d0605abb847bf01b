/** Jobs and training runs: filters and the page stand in the address. Read this one before you write another. */
import { $api, type Schemas } from "../api";
import { duration, since, when } from "../fmt";
import { ButtonLink, Field, Input, Select, StateMark } from "../ui/controls";
import { May, Page } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useParam } from "../url";

type Job = Schemas["Job"];
const STATES = ["queued", "running", "paused", "succeeded", "failed", "cancelled", "dead"] as const;

export default function Jobs() {
  const [state, setState] = useParam("state");
  const [kind, setKind] = useParam("kind");
  const [cursor] = useParam("cursor");
  const query = $api.useQuery(
    "get",
    "/api/v1/jobs",
    {
      params: {
        query: {
          limit: 50,
          state: STATES.find((each) => each === state),
          kind: kind || undefined,
          cursor: cursor || undefined,
        },
      },
    },
    { placeholderData: (before) => before }, // old rows stay until new ones are there
  );
  const filtered = state !== "" || kind !== "";
  return (
    <Page
      title="Jobs and runs"
      actions={
        <May call="POST /api/v1/pipelines">
          <ButtonLink href="/new">New run</ButtonLink>
        </May>
      }
    >
      <search className="filters">
        <Field label="State">
          <Select
            value={state}
            options={[["", "any"], ...STATES]}
            onChange={(event) => setState(event.target.value)}
          />
        </Field>
        <Field label="Kind">
          <Input data-search value={kind} onChange={(event) => setKind(event.target.value)} />
        </Field>
      </search>
      <Loaded query={query} what="the jobs" rows={12}>
        {(page) => (
          <Table
            caption="Jobs, newest first"
            columns={COLUMNS}
            rows={page.data}
            rowKey={(job) => job.id}
            href={(job) => (RUN_KINDS.includes(job.kind) ? `/runs/${job.id}` : `/jobs/${job.id}`)}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              filtered ? (
                <Empty title="No job fits these filters" />
              ) : (
                <Empty title="No job yet">Start one under New run, or: raymill run recipe.yaml</Empty>
              )
            }
          />
        )}
      </Loaded>
    </Page>
  );
}

const RUN_KINDS = ["pretrain", "train", "tune"];

const COLUMNS: Column<Job>[] = [
  { id: "name", label: "Name", cell: (job) => job.name, sort: (job) => job.name },
  { id: "step", label: "Step", cell: (job) => job.step },
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
];
