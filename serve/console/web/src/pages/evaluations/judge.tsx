/** What model judges said of kept answers, and a new judgement. */
import { useState } from "react";
import { Link } from "wouter";
import { $api, api, type Schemas } from "../../api";
import { DASH, num, percent, sig, when } from "../../fmt";
import { CallForm, Tick } from "../../ui/call-form";
import { Field, Input, Select, StateMark } from "../../ui/controls";
import { May, Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useCursor } from "../../url";
import { addressOf } from "../job-parts";

type Job = Schemas["Job"];
type Asked = Schemas["Judgement"];

export function Judges() {
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/jobs",
    { params: { query: { kind: "judge", limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <Loaded query={query} what="the judgements">
        {(page) => (
          <Table
            caption="Judgements, newest first"
            columns={JUDGEMENTS}
            rows={page.data}
            rowKey={(each) => each.id}
            href={addressOf}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              <Empty title="No judge was asked yet">
                It reads answers that an evaluation has kept; start one below, or by the command.
              </Empty>
            }
          />
        )}
      </Loaded>
      <May call="POST /api/v1/evaluations/judge">
        <JudgeForm />
      </May>
    </>
  );
}

function JudgeForm() {
  const [kind, setKind] = useState<Asked["kind"]>("pairwise");
  const [a, setA] = useState("");
  const [b, setB] = useState("");
  const [judge, setJudge] = useState("");
  const [task, setTask] = useState("heldout_exact_match");
  const [rubric, setRubric] = useState("");
  const [limit, setLimit] = useState("");
  const [reference, setReference] = useState(true);
  const [begun, setBegun] = useState<string | null>(null);
  const pair = kind === "pairwise";
  const run = async () => {
    const { data } = await api.POST("/api/v1/evaluations/judge", {
      // What is left out is the service's usual.
      body: {
        kind,
        a: a.trim(),
        b: pair ? b.trim() : null,
        judge: judge.trim(),
        task: task.trim(),
        rubric,
        limit: limit ? Number(limit) : null,
        show_reference: reference,
      } as Asked,
    });
    setBegun(data?.jobs?.[0]?.id ?? null);
  };
  return (
    <Panel title="Ask a judge">
      <CallForm
        call="POST /api/v1/evaluations/judge"
        action="Ask"
        disabled={!a.trim() || !judge.trim() || (pair && !b.trim())}
        run={run}
      >
        <div className="pair">
          <Field label="What">
            <Select
              value={kind}
              options={[
                ["pairwise", "which of two answers is better"],
                ["rubric", "a mark for each answer"],
              ]}
              onChange={(event) => setKind(event.target.value as Asked["kind"])}
            />
          </Field>
          <Field label="A" hint="Such as support@3">
            <Input value={a} onChange={(event) => setA(event.target.value)} />
          </Field>
          {pair && (
            <Field label="B">
              <Input value={b} onChange={(event) => setB(event.target.value)} />
            </Field>
          )}
          <Field label="Judge" hint="A name that the gateway answers for">
            <Input value={judge} onChange={(event) => setJudge(event.target.value)} />
          </Field>
          <Field label="Answers on">
            <Input value={task} onChange={(event) => setTask(event.target.value)} />
          </Field>
          <Field label="First examples" hint="Empty: all">
            <Input inputMode="numeric" value={limit} onChange={(event) => setLimit(event.target.value)} />
          </Field>
        </div>
        <Field label="What makes an answer good" hint="Empty: correct, complete and to the point">
          <Input value={rubric} onChange={(event) => setRubric(event.target.value)} />
        </Field>
        <Tick label="Show the judge the answer that the data has" value={reference} change={setReference} />
      </CallForm>
      {begun && (
        <p>
          It goes on as <Link href={`/jobs/${begun}`}>job {begun}</Link>.
        </p>
      )}
    </Panel>
  );
}

/** What the job was told, or what came of it: the same names in both. */
function told(job: Job, name: string): string {
  const value = job.result?.[name] ?? job.config[name];
  return typeof value === "string" ? value : DASH;
}

function number(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}

function scoreOf(job: Job): string {
  if (!job.result) return DASH;
  const { win_rate, score, low, high } = job.result;
  const rate = number(win_rate);
  const shown = rate === null ? sig(number(score)) : percent(rate);
  const between = (value: unknown) => (rate === null ? sig(number(value)) : percent(number(value)));
  return `${shown} (${between(low)} to ${between(high)})`;
}

/** How often the judge changed its mind when A and B changed places. */
function biasOf(job: Job): string {
  const bias = job.result?.position_bias;
  const rate = bias && typeof bias === "object" && "rate" in bias ? number(bias.rate) : null;
  return percent(rate);
}

const JUDGEMENTS: Column<Job>[] = [
  { id: "name", label: "Judgement", cell: (job) => told(job, "name") },
  { id: "state", label: "State", cell: (job) => <StateMark state={job.state} />, sort: (job) => job.state },
  { id: "kind", label: "What", cell: (job) => told(job, "kind") },
  { id: "a", label: "A", cell: (job) => told(job, "a") },
  { id: "b", label: "B", cell: (job) => told(job, "b") },
  { id: "judge", label: "Judge", cell: (job) => told(job, "judge") },
  { id: "score", label: "A wins, or its mark", num: true, cell: scoreOf },
  { id: "verdict", label: "Verdict on A", cell: (job) => told(job, "verdict") },
  { id: "bias", label: "Swayed by place", num: true, cell: biasOf },
  { id: "n", label: "n", num: true, cell: (job) => num(number(job.result?.examples)) },
  { id: "at", label: "At (UTC)", num: true, cell: (job) => when(job.created_at) },
];
