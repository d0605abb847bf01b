/** Scores with their intervals by task. Two marked ones lead to their comparison: intervals alone decide nothing. */
import { useState } from "react";
import { $api, type Schemas } from "../../api";
import { DASH, num, sig, usd, when } from "../../fmt";
import { ButtonLink, Field, Input, Select } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useParam, useTyped } from "../../url";
import { scaleOf, Whisker } from "./whisker";

type Standing = Schemas["Standing"];

export function Leaderboard() {
  const [task, setTask, ofTask] = useTyped("task");
  const [model, setModel, ofModel] = useTyped("model");
  const [limit, setLimit] = useParam("limit", "100");
  const [marked, mark] = useState<ReadonlySet<string>>(new Set());
  const query = $api.useQuery(
    "get",
    "/api/v1/evaluations/leaderboard",
    {
      params: {
        query: { task: ofTask || undefined, model: ofModel || undefined, limit: Number(limit) || 100 },
      },
    },
    { placeholderData: (before) => before },
  );
  const [a, b] = [...marked];
  return (
    <>
      <search className="filters">
        <Field label="Task">
          <Input data-search value={task} onChange={(event) => setTask(event.target.value)} />
        </Field>
        <Field label="Model">
          <Input value={model} onChange={(event) => setModel(event.target.value)} />
        </Field>
        <Field label="Newest scores">
          <Select
            value={limit}
            options={["50", "100", "500"]}
            onChange={(event) => setLimit(event.target.value)}
          />
        </Field>
        {a && b && marked.size === 2 && (
          <ButtonLink look="main" href={comparisonOf(a, b, task)}>
            Compare the two
          </ButtonLink>
        )}
      </search>
      <Loaded query={query} what="the scores" rows={8}>
        {(board) =>
          board.standings.length === 0 ? (
            ofTask || ofModel ? (
              <Empty title="No score fits these filters">Task and model are whole names.</Empty>
            ) : (
              <Empty title="Nothing was measured yet">
                A recipe with an evaluate section does, or: <code>raymill evaluate run TARGET</code>
              </Empty>
            )
          ) : (
            [...new Set(board.standings.map((each) => each.task))].map((name) => (
              <TaskBoard
                key={name}
                task={name}
                rows={board.standings.filter((each) => each.task === name)}
                marked={marked}
                mark={(version) => mark(turned(marked, version))}
              />
            ))
          )
        }
      </Loaded>
    </>
  );
}

function comparisonOf(a: string, b: string, task: string): string {
  const query = new URLSearchParams({ tab: "compare", a, b, ...(task ? { task } : {}) });
  return `/evals?${query}`;
}

function turned(marked: ReadonlySet<string>, version: string): ReadonlySet<string> {
  const after = new Set(marked);
  if (!after.delete(version)) after.add(version);
  return after;
}

function TaskBoard({
  task,
  rows,
  marked,
  mark,
}: {
  task: string;
  rows: Standing[];
  marked: ReadonlySet<string>;
  mark: (version: string) => void;
}) {
  const scale = scaleOf(rows.flatMap((each) => [each.score, each.low, each.high]));
  const best = rows[0];
  const columns: Column<Standing>[] = [
    { id: "version", label: "Who", cell: (each) => each.version, sort: (each) => each.version },
    { id: "aliases", label: "Aliases", cell: (each) => each.aliases.join(", ") || DASH },
    { id: "score", label: "Score", num: true, cell: (each) => sig(each.score), sort: (each) => each.score },
    { id: "interval", label: "95 % interval", num: true, cell: intervalOf },
    {
      id: "whisker",
      label: "Interval",
      cell: (each) => <Whisker low={each.low} high={each.high} at={each.score} scale={scale} />,
    },
    {
      id: "apart",
      label: "From the best",
      cell: (each) => (best && overlaps(each, best) ? "overlaps" : "apart"),
    },
    { id: "n", label: "n", num: true, cell: (each) => num(each.samples), sort: (each) => each.samples },
    { id: "dataset", label: "Data set", cell: (each) => each.dataset ?? DASH },
    {
      id: "cost",
      label: "Cost",
      num: true,
      cell: (each) => (each.cost_micro_usd == null ? DASH : usd(each.cost_micro_usd / 1e6)),
    },
    { id: "at", label: "At (UTC)", num: true, cell: (each) => when(each.evaluated_at) },
  ];
  return (
    <Panel title={task}>
      <Table
        caption={`Scores on ${task}, the best first`}
        columns={columns}
        rows={rows}
        rowKey={(each) => each.version}
        marked={marked}
        onMark={mark}
      />
      {rows.some((each) => each.note) && (
        <ul className="small">
          {rows
            .filter((each) => each.note)
            .map((each) => (
              <li key={each.version}>
                {each.version} has no interval: {each.note}
              </li>
            ))}
        </ul>
      )}
      <p className="small">Space marks a row. Two that are marked are compared example by example.</p>
    </Panel>
  );
}

function intervalOf(each: Standing): string {
  return each.low === null || each.high === null ? DASH : `${sig(each.low)} to ${sig(each.high)}`;
}

/** Not a test: what overlaps may differ all the same, which the paired comparison tells. */
function overlaps(one: Standing, other: Standing): boolean {
  const reaches = (a: Standing, b: Standing) => (a.high ?? a.score) >= (b.low ?? b.score);
  return reaches(one, other) && reaches(other, one);
}
