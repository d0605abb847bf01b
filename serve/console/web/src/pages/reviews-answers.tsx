/** Every answer of a model, also those that could not be used, with what each cost. */
import { useState } from "react";
import { $api, type Schemas } from "../api";
import { DASH, duration, num, usd, when } from "../fmt";
import { Button, Pre } from "../ui/controls";
import { Dialog } from "../ui/dialog";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";

type Answer = Schemas["CodeAnswer"];

export function Answers({ id }: { id: string }) {
  const [shown, show] = useState<Answer | null>(null);
  const query = $api.useQuery("get", "/code/v1/submissions/{submission_id}/answers", {
    params: { path: { submission_id: id } },
  });
  const columns: Column<Answer>[] = [
    { id: "step", label: "Step", cell: (each) => each.step },
    { id: "number", label: "Answer", num: true, cell: (each) => `${each.attempt}.${each.number}` },
    { id: "model", label: "Model", cell: (each) => each.model },
    { id: "version", label: "Version of the step", num: true, cell: (each) => each.step_version },
    {
      id: "problem",
      label: "Used",
      cell: (each) =>
        each.problem === null ? (
          <span className="mark mark-ok">
            <span aria-hidden="true">✓</span> used
          </span>
        ) : (
          <span className="wrap">✕ {each.problem}</span>
        ),
    },
    { id: "in", label: "Tokens in", num: true, cell: (each) => num(each.prompt_tokens) },
    { id: "out", label: "Tokens out", num: true, cell: (each) => num(each.completion_tokens) },
    {
      id: "cost",
      label: "Cost",
      num: true,
      cell: (each) => (each.cost_micro_usd === null ? DASH : usd(each.cost_micro_usd / 1e6)),
    },
    { id: "took", label: "Took", num: true, cell: (each) => duration(each.latency_ms / 1000) },
    { id: "at", label: "At (UTC)", num: true, cell: (each) => when(each.at, true) },
    {
      id: "do",
      label: "Text",
      cell: (each) => (
        <Button
          look="quiet"
          aria-label={`Show answer ${each.attempt}.${each.number}`}
          onClick={() => show(each)}
        >
          Show
        </Button>
      ),
    },
  ];
  return (
    <>
      <Loaded query={query} what="the models' answers">
        {(page) => (
          <Table
            caption="Answers of models, in their order"
            columns={columns}
            rows={page.data}
            rowKey={(each) => each.id}
            empty={<Empty title="No model has answered yet" />}
          />
        )}
      </Loaded>
      {shown && (
        <Dialog title={`${shown.step}, ${shown.model}`} close={() => show(null)}>
          <Pre label="The answer">{shown.content}</Pre>
          <div className="actions actions-end">
            <Button onClick={() => show(null)}>Close</Button>
          </div>
        </Dialog>
      )}
    </>
  );
}
