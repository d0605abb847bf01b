/** Submitted code, newest first; with `id` in the address, one submission. */
import { useState } from "react";
import { $api, type Schemas } from "../api";
import { bytes, DASH, duration, short, since, when } from "../fmt";
import { useMay } from "../session";
import { Button, ButtonLink, Field, Select, StateMark } from "../ui/controls";
import { Page } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useParam } from "../url";
import { Review, ReviewActions } from "./reviews-one";
import { SubmitForm } from "./reviews-submit";

type Submission = Schemas["Submission"];
const STATES = ["queued", "running", "paused", "succeeded", "failed", "cancelled", "dead"] as const;

export default function Reviews() {
  const [id] = useParam("id");
  return id ? <One key={id} id={id} /> : <List />;
}

function One({ id }: { id: string }) {
  const query = $api.useQuery("get", "/code/v1/submissions/{submission_id}", {
    params: { path: { submission_id: id } },
  });
  return (
    <Page
      title={`Code review ${short(id)}`}
      actions={
        <>
          <ButtonLink href="/reviews">All submissions</ButtonLink>
          {query.data && <ReviewActions review={query.data} />}
        </>
      }
    >
      <Loaded query={query} what="this submission" rows={8}>
        {(review) => <Review review={review} />}
      </Loaded>
    </Page>
  );
}

function List() {
  const [state, setState] = useParam("state");
  const [writing, write] = useState(false);
  const cursor = useCursor();
  const may = useMay("POST /code/v1/submissions");
  const query = $api.useQuery(
    "get",
    "/code/v1/submissions",
    { params: { query: { limit: 50, state: STATES.find((each) => each === state), cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <Page
      title="Code review"
      actions={
        may &&
        !writing && (
          <Button look="main" onClick={() => write(true)}>
            Submit code
          </Button>
        )
      }
    >
      {writing && <SubmitForm close={() => write(false)} />}
      <search className="filters">
        <Field label="State">
          <Select
            data-search
            value={state}
            options={[["", "any"], ...STATES]}
            onChange={(event) => setState(event.target.value)}
          />
        </Field>
      </search>
      <Loaded query={query} what="the submissions" rows={8}>
        {(page) => (
          <Table
            caption="Submissions, newest first"
            columns={COLUMNS}
            rows={page.data}
            rowKey={(each) => each.id}
            href={(each) => `/reviews?id=${each.id}`}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              state ? (
                <Empty title="No submission is in that state" />
              ) : (
                <Empty title="No submission yet">
                  Submit code here, or: <code>raymill code submit app.py</code>
                </Empty>
              )
            }
          />
        )}
      </Loaded>
    </Page>
  );
}

const COLUMNS: Column<Submission>[] = [
  {
    id: "files",
    label: "Files",
    cell: (each) => <span className="wrap">{each.files.join(", ") || short(each.id)}</span>,
    sort: (each) => each.files.join(", "),
  },
  {
    id: "state",
    label: "State",
    cell: (each) => <StateMark state={each.state} />,
    sort: (each) => each.state,
  },
  { id: "step", label: "Step", cell: (each) => each.step ?? DASH },
  { id: "language", label: "Language", cell: (each) => each.language ?? DASH, sort: (each) => each.language },
  {
    id: "size",
    label: "Size",
    num: true,
    cell: (each) => bytes(each.size_bytes),
    sort: (each) => each.size_bytes,
  },
  { id: "comment", label: "Comment", cell: (each) => <span className="wrap">{each.comment}</span> },
  { id: "by", label: "By", cell: (each) => each.created_by, sort: (each) => each.created_by },
  {
    id: "created",
    label: "Created (UTC)",
    num: true,
    cell: (each) => when(each.created_at),
    sort: (each) => each.created_at,
  },
  {
    id: "took",
    label: "Took",
    num: true,
    cell: (each) => duration(since(each.created_at, each.finished_at)),
  },
];
