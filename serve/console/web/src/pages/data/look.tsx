/** What a base's tokenizer makes of a data set: its tokens, and its rows as the base sees them, by a short job. */
import { useState } from "react";
import { Link } from "wouter";
import { api, type Schemas } from "../../api";
import { num, percent } from "../../fmt";
import { useMay } from "../../session";
import { CallForm } from "../../ui/call-form";
import { Facts, Field, Input, Select, StateMark } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Loaded, NoPermission, Notice } from "../../ui/state";
import { useParam } from "../../url";
import { useJob } from "./outcome";
import { LengthsOf } from "./statistics";

type Counted = {
  tokens: number;
  trained_token_share: number;
  rows: number;
  rows_cut: number;
  share_cut: number;
  max_tokens: number;
  rows_unusable: number;
  length_tokens: Parameters<typeof LengthsOf>[0]["lengths"];
};
type Seen = {
  rows: {
    number: number;
    problem: string | null;
    sequences: { tokens: number; trained_tokens: number; pieces: { text: string; trained: boolean }[] }[];
  }[];
};

export function Look({ name, number }: { name: string; number: number }) {
  const may = useMay("POST /api/v1/datasets/{name}/preview");
  const [base, setBase] = useState("");
  const [what, setWhat] = useState<"preview" | "stats">("preview");
  const [part, setPart] = useState<"train" | "test">("train");
  const [most, setMost] = useState("1024");
  const [first, setFirst] = useState("1");
  const [job, setJob] = useParam("look");
  if (!may) return <NoPermission />;
  const run = async () => {
    const body: Schemas["TokenRequest"] = {
      base: base.trim(),
      number,
      part,
      max_tokens: Number(most),
      rows: 5,
      first: Number(first),
    };
    const path = { params: { path: { name } }, body };
    const { data } =
      what === "preview"
        ? await api.POST("/api/v1/datasets/{name}/preview", path)
        : await api.POST("/api/v1/datasets/{name}/stats", path);
    if (data) setJob(data.id);
  };
  return (
    <>
      <Panel title="As a base sees it">
        <CallForm
          call="POST /api/v1/datasets/{name}/preview"
          action="Look"
          disabled={!base.trim() || !(Number(most) >= 16) || !(Number(first) >= 1)}
          run={run}
        >
          <div className="pair">
            <Field
              label="Base"
              hint="A folder on the service's machine, or an artifact such as base/triage/0a1b"
            >
              <Input value={base} onChange={(event) => setBase(event.target.value)} />
            </Field>
            <Field label="What">
              <Select
                value={what}
                options={[
                  ["preview", "rows in its template"],
                  ["stats", "tokens of all rows"],
                ]}
                onChange={(event) => setWhat(event.target.value as typeof what)}
              />
            </Field>
            <Field label="Part">
              <Select
                value={part}
                options={[
                  ["train", "training rows"],
                  ["test", "held-out rows"],
                ]}
                onChange={(event) => setPart(event.target.value as typeof part)}
              />
            </Field>
            {what === "preview" ? (
              <Field label="From row">
                <Input value={first} onChange={(event) => setFirst(event.target.value)} />
              </Field>
            ) : (
              <Field label="Cut beyond tokens">
                <Input value={most} onChange={(event) => setMost(event.target.value)} />
              </Field>
            )}
          </div>
        </CallForm>
      </Panel>
      {job && <Found jobId={job} />}
    </>
  );
}

function Found({ jobId }: { jobId: string }) {
  const query = useJob(jobId);
  return (
    <Loaded query={query} what="what was found">
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
          {job.result && job.kind === "dataset_tokens" && <Tokens found={job.result as unknown as Counted} />}
          {job.result && job.kind === "dataset_preview" && <Rendered found={job.result as unknown as Seen} />}
        </>
      )}
    </Loaded>
  );
}

function Tokens({ found }: { found: Counted }) {
  return (
    <Panel title="Tokens">
      <Facts
        of={[
          ["Rows", num(found.rows)],
          ["Tokens", num(found.tokens)],
          ["Trained", percent(found.trained_token_share)],
          [`Rows over ${num(found.max_tokens)}`, `${num(found.rows_cut)}, ${percent(found.share_cut)}`],
          ["Unusable", num(found.rows_unusable)],
        ]}
      />
      <LengthsOf title="Tokens of a row" lengths={found.length_tokens} />
    </Panel>
  );
}

function Rendered({ found }: { found: Seen }) {
  return found.rows.map((row) => (
    <Panel key={row.number} title={`Row ${num(row.number)}`}>
      {row.problem && <Notice kind="bad">{row.problem}</Notice>}
      {row.sequences.map((sequence, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: the chosen one is first, the rejected one second
        <div key={at}>
          <p className="small">
            {num(sequence.tokens)} tokens, {num(sequence.trained_tokens)} trained: those that are underlined.
          </p>
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
          <section className="log" tabIndex={0} aria-label={`Row ${row.number} in the template`}>
            <pre>
              {sequence.pieces.map((piece, place) =>
                // biome-ignore lint/suspicious/noArrayIndexKey: a piece is its place
                piece.trained ? <u key={place}>{piece.text}</u> : <span key={place}>{piece.text}</span>,
              )}
            </pre>
          </section>
        </div>
      ))}
    </Panel>
  ));
}
