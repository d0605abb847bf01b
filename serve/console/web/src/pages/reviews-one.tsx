/** One submission: its three steps as they go, what was found by line, what was changed, and what that did. */
import { useLocation } from "wouter";
import { api, type Schemas } from "../api";
import { bytes, DASH, duration, since, when } from "../fmt";
import { save } from "../save";
import { Action } from "../ui/action";
import { Button, Facts, Pre, StateMark, Tabs } from "../ui/controls";
import { Panel } from "../ui/page";
import { Empty, Notice } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useParam } from "../url";
import { Answers } from "./reviews-answers";
import { UnifiedDiff } from "./reviews-diff";
import { Findings } from "./reviews-findings";
import { Report } from "./reviews-report";

type Detail = Schemas["SubmissionDetail"];

const TABS = [
  ["findings", "Findings"],
  ["change", "Change"],
  ["report", "Report"],
  ["dossier", "Dossier"],
  ["answers", "Models' answers"],
] as const;

export function ReviewActions({ review }: { review: Detail }) {
  const [, navigate] = useLocation();
  const path = { params: { path: { submission_id: review.id } } };
  const open = ["queued", "running", "paused"].includes(review.state);
  const bad = ["failed", "dead", "cancelled"].includes(review.state);
  return (
    <>
      {bad && (
        <Action
          call="POST /code/v1/submissions/{submission_id}/retry"
          label="Retry"
          look="main"
          run={() => api.POST("/code/v1/submissions/{submission_id}/retry", path)}
        />
      )}
      {open ? (
        <Action
          call="POST /code/v1/submissions/{submission_id}/cancel"
          label="Cancel"
          look="bad"
          confirm={{
            title: "Cancel this submission?",
            text: "What its steps have left stays; nothing more of it counts. A retry goes on with the steps that are missing.",
          }}
          run={() => api.POST("/code/v1/submissions/{submission_id}/cancel", path)}
        />
      ) : (
        <Action
          call="DELETE /code/v1/submissions/{submission_id}"
          label="Delete"
          look="bad"
          confirm={{
            title: "Delete this submission?",
            text: "The code, what was found in it and what models said of it are forgotten. That cannot be undone.",
          }}
          run={async () => {
            await api.DELETE("/code/v1/submissions/{submission_id}", path);
            navigate("/reviews");
          }}
        />
      )}
    </>
  );
}

export function Review({ review }: { review: Detail }) {
  const [tab, setTab] = useParam("part", "findings");
  return (
    <>
      <Facts
        of={[
          ["State", <StateMark key="state" state={review.state} />],
          ["Files", review.files.join(", ")],
          ["Language", review.language ?? DASH],
          ["Size", bytes(review.size_bytes)],
          ["By", review.created_by],
          ["Created (UTC)", when(review.created_at, true)],
          ["Took", duration(since(review.created_at, review.finished_at))],
          ["Id", review.id],
        ]}
      />
      {review.comment && <Notice>{review.comment}</Notice>}
      {review.error && <Notice kind="bad">{review.error}</Notice>}
      <Panel title="Steps">
        <Table
          caption="Steps"
          columns={STEPS}
          rows={review.steps}
          rowKey={(step) => step.step}
          href={(step) => `/jobs/${step.job_id}`}
        />
      </Panel>
      <Tabs label="What is shown" tabs={TABS} chosen={tab} choose={setTab}>
        <Part review={review} tab={tab} />
      </Tabs>
    </>
  );
}

function Part({ review, tab }: { review: Detail; tab: string }) {
  if (tab === "change") {
    if (review.diff === null) return <Empty title="Nothing is rebuilt yet">The second step does that.</Empty>;
    if (review.diff === "") return <Empty title="The rebuilt code is the same" />;
    return <UnifiedDiff diff={review.diff} name={`${review.id}.diff`} />;
  }
  if (tab === "report") return <Report review={review} />;
  if (tab === "answers") return <Answers id={review.id} />;
  if (tab === "dossier") {
    const { dossier } = review;
    if (dossier === null) return <Empty title="No dossier yet">The first step writes it.</Empty>;
    return (
      <Panel
        title="Dossier"
        actions={
          <Button look="quiet" onClick={() => save(`${review.id}.md`, dossier, "text/markdown")}>
            Save
          </Button>
        }
      >
        <Pre label="Dossier">{dossier}</Pre>
      </Panel>
    );
  }
  return <Findings review={review} />;
}

const STEPS: Column<Schemas["CodeStepState"]>[] = [
  { id: "step", label: "Step", cell: (step) => step.step },
  { id: "state", label: "State", cell: (step) => <StateMark state={step.state} /> },
  { id: "attempt", label: "Attempt", num: true, cell: (step) => step.attempt },
  { id: "model", label: "Model", cell: (step) => step.model ?? DASH },
  { id: "error", label: "Error", cell: (step) => <span className="wrap">{step.error ?? DASH}</span> },
];
