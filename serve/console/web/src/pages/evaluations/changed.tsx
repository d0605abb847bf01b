/** The examples of a task that A and B did not answer alike: each opens in place, with what was asked, wanted and answered. */
import { $api, ApiError, type Schemas } from "../../api";
import { DASH, num, sig } from "../../fmt";
import { Button, Field, Pre, Select } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useCursor, useParam } from "../../url";

type Sample = Schemas["ChangedSample"];
type Answer = Schemas["SampleAnswer"];
type Side = "a" | "b" | "either" | "neither";
const SIDES: [Side, string][] = [
  ["either", "either of them"],
  ["a", "A alone"],
  ["b", "B alone"],
  ["neither", "neither: only the answers differ"],
];
const BETTER = { a: "A", b: "B", neither: "neither" };

export function Changed({ told }: { told: Schemas["VersionComparison"] }) {
  const first = told.tasks[0]?.task ?? "";
  const [chosen, choose] = useParam("of", first);
  const [better, setBetter] = useParam("better", "either");
  const cursor = useCursor();
  const task = told.tasks.find((each) => each.task === chosen)?.task ?? first;
  const side = SIDES.find(([id]) => id === better)?.[0] ?? "either";
  const query = $api.useQuery(
    "get",
    "/api/v1/evaluations/compare/changed",
    { params: { query: { a: told.a, b: told.b, task, better: side, limit: 20, cursor } } },
    { placeholderData: (before) => before, refetchInterval: false },
  );
  const refused: unknown = query.error;
  return (
    <Panel title="Examples that changed">
      <div className="filters">
        {told.tasks.length > 1 && (
          <Field label="Of the task">
            <Select
              value={task}
              options={told.tasks.map((each) => each.task)}
              onChange={(event) => choose(event.target.value)}
            />
          </Field>
        )}
        <Field label="Who did better">
          <Select value={side} options={SIDES} onChange={(event) => setBetter(event.target.value)} />
        </Field>
      </div>
      {refused instanceof ApiError && refused.param === "cursor" && (
        <Empty
          title="This page is of an older measurement"
          action={<Button onClick={() => setBetter(side)}>First page</Button>}
        />
      )}
      <Loaded query={query} what="the examples" rows={8}>
        {(page) => (
          <Table
            caption={`Examples of ${task} that changed, in the order of the data`}
            columns={COLUMNS}
            rows={page.data}
            rowKey={(each) => `example ${each.place}`}
            detail={shown}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              <Empty title="No such example">On all that both were asked, the scores are the same.</Empty>
            }
          />
        )}
      </Loaded>
      <p className="small">Enter opens an example; j and k go on to the next and the one before.</p>
    </Panel>
  );
}

function shown(each: Sample) {
  return (
    <div className="stack">
      <Text label="Asked" text={each.prompt} />
      {each.prompt_b !== null && <Text label="Asked of B, in other words" text={each.prompt_b} />}
      <Text label="Wanted" text={each.reference} />
      <div className="panels">
        <Text label={`A, ${told(each.a)}`} text={each.a.answer} />
        <Text label={`B, ${told(each.b)}`} text={each.b.answer} />
      </div>
    </div>
  );
}

function Text({ label, text }: { label: string; text: string | null }) {
  return (
    <div>
      <h3>{label}</h3>
      <Pre label={label}>{text || DASH}</Pre>
    </div>
  );
}

function told({ score, answers, reason }: Answer): string {
  const more = answers > 1 ? `, the first of ${num(answers)} answers` : "";
  return `score ${sig(score)}${more}${reason ? `: ${reason}` : ""}`;
}

/** In one line, as much of its end as fits: of a long prompt what is asked comes last. */
function Line({ text, end }: { text: string | null; end?: boolean }) {
  const line = (text ?? "").split(/\s+/).join(" ").trim();
  return (
    <span className="cut">
      {end && line.length > 45 ? `…${line.slice(-45)}` : line.slice(0, 200) || DASH}
    </span>
  );
}

const COLUMNS: Column<Sample>[] = [
  { id: "index", label: "Example", cell: (each) => num(each.index) },
  { id: "better", label: "Did better", cell: (each) => BETTER[each.better], sort: (each) => each.better },
  { id: "asked", label: "Asked", cell: (each) => <Line text={each.prompt} end /> },
  { id: "wanted", label: "Wanted", cell: (each) => <Line text={each.reference} /> },
  { id: "a", label: "A's answer", cell: (each) => <Line text={each.a.answer} /> },
  { id: "b", label: "B's answer", cell: (each) => <Line text={each.b.answer} /> },
  { id: "of-a", label: "A", num: true, cell: (each) => sig(each.a.score), sort: (each) => each.a.score },
  { id: "of-b", label: "B", num: true, cell: (each) => sig(each.b.score), sort: (each) => each.b.score },
];
