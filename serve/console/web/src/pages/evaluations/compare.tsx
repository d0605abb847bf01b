/** A against B on the examples that both were asked: a verdict for each task, with the difference and its interval. */
import { $api, type Schemas } from "../../api";
import { num, sig } from "../../fmt";
import { Field, Input } from "../../ui/controls";
import { Empty, Loaded, Notice } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useTyped } from "../../url";
import { Changed } from "./changed";
import { scaleOf, Whisker } from "./whisker";

type Task = Schemas["TaskComparison"];
const MARKS: Record<Task["verdict"], [string, string, string]> = {
  better: ["✓", "A is better", "ok"],
  worse: ["✕", "A is worse", "bad"],
  "no evidence": ["○", "no evidence", "idle"],
};

export function Comparison() {
  const [a, setA, ofA] = useTyped("a");
  const [b, setB, ofB] = useTyped("b");
  const [task, setTask, ofTask] = useTyped("task");
  const board = $api.useQuery("get", "/api/v1/evaluations/leaderboard", {
    params: { query: { limit: 500 } },
  });
  const names = [...new Set((board.data?.standings ?? []).map((each) => each.version))];
  const ready = Boolean(ofA && ofB);
  const query = $api.useQuery(
    "get",
    "/api/v1/evaluations/compare",
    { params: { query: { a: ofA, b: ofB, task: ofTask || undefined } } },
    { enabled: ready, placeholderData: (before) => before, refetchInterval: false },
  );
  return (
    <>
      <search className="filters">
        <Field label="A">
          <Input data-search list="targets" value={a} onChange={(event) => setA(event.target.value)} />
        </Field>
        <Field label="B">
          <Input list="targets" value={b} onChange={(event) => setB(event.target.value)} />
        </Field>
        <Field label="Task">
          <Input value={task} onChange={(event) => setTask(event.target.value)} />
        </Field>
        <datalist id="targets">
          {names.map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
      </search>
      {ready ? (
        <Loaded query={query} what="the comparison">
          {(told) => (
            <>
              <Verdicts told={told} />
              {told.tasks.length > 0 && <Changed told={told} />}
            </>
          )}
        </Loaded>
      ) : (
        <Empty title="Choose two that were measured">
          Such as <code>support-triage@3</code> and <code>support-triage@production</code>, or mark two on the
          leaderboard.
        </Empty>
      )}
    </>
  );
}

function Verdicts({ told }: { told: Schemas["VersionComparison"] }) {
  const scale = scaleOf(
    told.tasks.flatMap((each) => [each.low, each.high]),
    true,
  );
  const others = told.tasks.filter((each) => each.asked_differently > 0);
  const columns: Column<Task>[] = [
    { id: "task", label: "Task", cell: (each) => each.task, sort: (each) => each.task },
    {
      id: "verdict",
      label: "Verdict",
      sort: (each) => each.verdict,
      cell: (each) => {
        const [sign, word, look] = MARKS[each.verdict];
        return (
          <span className={`mark mark-${look}`}>
            <span aria-hidden="true">{sign}</span> {word}
          </span>
        );
      },
    },
    { id: "a", label: "A", num: true, cell: (each) => sig(each.mean_a) },
    { id: "b", label: "B", num: true, cell: (each) => sig(each.mean_b) },
    {
      id: "difference",
      label: "A − B",
      num: true,
      cell: (each) => `${sig(each.difference)} (${sig(each.low)} to ${sig(each.high)})`,
      sort: (each) => each.difference,
    },
    {
      id: "whisker",
      label: "Interval",
      cell: (each) => <Whisker low={each.low} high={each.high} at={each.difference} scale={scale} zero />,
    },
    { id: "p", label: "p", num: true, cell: (each) => sig(each.p_value, 3), sort: (each) => each.p_value },
    { id: "won", label: "A alone", num: true, cell: (each) => num(each.wins) },
    { id: "lost", label: "B alone", num: true, cell: (each) => num(each.losses) },
    { id: "n", label: "Examples", num: true, cell: (each) => num(each.examples) },
    { id: "test", label: "Test", cell: (each) => each.test },
  ];
  return (
    <>
      {others.map((each) => (
        <Notice key={each.task} kind="warn">
          {each.task}: {num(each.asked_differently)} examples were asked in other words and do not count.
        </Notice>
      ))}
      <Table
        caption={`${told.a} against ${told.b}`}
        columns={columns}
        rows={told.tasks}
        rowKey={(each) => each.task}
        empty={<Empty title="They share no task whose answers were kept" />}
      />
      <p className="small">
        A is {told.a}, B is {told.b}; α = {sig(told.alpha)}. Paired on the same examples: the intervals of the
        leaderboard are of each alone.
      </p>
    </>
  );
}
