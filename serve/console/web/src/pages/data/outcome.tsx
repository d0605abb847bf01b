/** What became of a check or a registration: how far its job is, and the rows that are wrong. */
import { Link } from "wouter";
import { $api } from "../../api";
import { num } from "../../fmt";
import { Facts, StateMark } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Loaded, Notice } from "../../ui/state";
import { type Column, Table } from "../../ui/table";

type BadRow = { file: string; unit: string; number: number; reason: string };
type Checked = {
  valid: boolean;
  problem: string | null;
  bad_rows: number;
  first_bad_rows: BadRow[];
  train_rows: number;
  test_rows: number;
  format: string;
  shape: string;
};

const ENDED = ["succeeded", "failed", "cancelled", "dead"];

/** Read until it has ended. */
export function useJob(id: string) {
  return $api.useQuery(
    "get",
    "/api/v1/jobs/{job_id}",
    { params: { path: { job_id: id } } },
    {
      enabled: id !== "",
      refetchInterval: (query) => (ENDED.includes(query.state.data?.state ?? "") ? false : 2_000),
    },
  );
}

export function Outcome({ jobId, title }: { jobId: string; title: string }) {
  const query = useJob(jobId);
  return (
    <Panel title={title}>
      <Loaded query={query} what="how it goes on">
        {(job) => (
          <>
            <Facts
              of={[
                ["State", <StateMark key="state" state={job.state} />],
                [
                  "Job",
                  <Link key="job" href={`/jobs/${job.id}`}>
                    {job.id}
                  </Link>,
                ],
              ]}
            />
            {job.error && <Notice kind="bad">{job.error}</Notice>}
            {job.kind === "dataset_check" && job.result && (
              <CheckedRows found={job.result as unknown as Checked} />
            )}
            {job.kind !== "dataset_check" && job.state === "succeeded" && (
              <Notice kind="ok">
                Registered: <Link href={`/data/${job.name}`}>{job.name}</Link>
              </Notice>
            )}
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function CheckedRows({ found }: { found: Checked }) {
  return (
    <>
      <Notice kind={found.valid ? "ok" : "bad"}>
        {found.valid
          ? "Nothing is wrong with it: it can be registered."
          : (found.problem ?? `${num(found.bad_rows)} rows are wrong.`)}
      </Notice>
      <Facts
        of={[
          ["Training rows", num(found.train_rows)],
          ["Held-out rows", num(found.test_rows)],
          ["Format", found.format || "unknown"],
          ["Shape", found.shape || "unknown"],
          ["Bad rows", num(found.bad_rows)],
        ]}
      />
      {found.first_bad_rows.length > 0 && (
        <>
          <Table
            caption="Rows that are wrong"
            columns={BAD}
            rows={found.first_bad_rows.slice(0, MOST)}
            rowKey={(row) => `${row.file} ${row.number}`}
          />
          {found.bad_rows > MOST && (
            <p className="small">
              The first {MOST} of {num(found.bad_rows)}; the job's result has up to 1,000.
            </p>
          )}
        </>
      )}
    </>
  );
}

const MOST = 100;
const BAD: Column<BadRow>[] = [
  { id: "number", label: "At", num: true, cell: (row) => `${row.unit} ${num(row.number)}` },
  { id: "file", label: "File", cell: (row) => row.file },
  { id: "reason", label: "What is wrong", cell: (row) => <span className="wrap">{row.reason}</span> },
];
