/** Faults that are put into code analysis on purpose, to see it bear them. Refused in production mode. */
import { useState } from "react";
import { $api, api, queryClient, type Schemas } from "../api";
import { DASH, duration, percent, when } from "../fmt";
import { useMay } from "../session";
import { Action } from "../ui/action";
import { Button, Field, Input, Select, StateMark } from "../ui/controls";
import { Confirm } from "../ui/dialog";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor } from "../url";

type Fault = Schemas["CodeExperiment"];
const KINDS: readonly (readonly [Fault["fault"], string])[] = [
  ["provider_outage", "providers are away"],
  ["slow_answers", "answers are slow"],
  ["rate_limits", "providers refuse for too many requests"],
  ["database_away", "the database is away"],
];

export function Faults() {
  const cursor = useCursor();
  const may = useMay("POST /code/v1/experiments");
  const [asking, ask] = useState(false);
  const query = $api.useQuery(
    "get",
    "/code/v1/experiments",
    { params: { query: { limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      {may && (
        <div className="actions">
          <Button onClick={() => ask(true)}>Put in a fault</Button>
        </div>
      )}
      <Loaded query={query} what="the faults">
        {(page) => (
          <Table
            caption="Faults on purpose, newest first"
            columns={COLUMNS}
            rows={page.data}
            rowKey={(fault) => fault.id}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              <Empty title="No fault was put in yet">
                One meets the questions or steps of code analysis for a while, and ends by itself.
              </Empty>
            }
          />
        )}
      </Loaded>
      {asking && <Begin close={() => ask(false)} />}
    </>
  );
}

function Begin({ close }: { close: () => void }) {
  const [kind, setKind] = useState<Fault["fault"]>("provider_outage");
  const [share, setShare] = useState("100");
  const [delay, setDelay] = useState("1");
  const [seconds, setSeconds] = useState("60");
  const run = async () => {
    await api.POST("/code/v1/experiments", {
      body: {
        fault: kind,
        share: Number(share) / 100,
        delay_s: Number(delay),
        seconds: Number(seconds),
      },
    });
    await queryClient.invalidateQueries();
  };
  return (
    <Confirm title="Put in a fault" action="Put it in" bad run={run} close={close}>
      <p>Submissions that run meanwhile meet it. It ends by itself, or when it is stopped here.</p>
      <Field label="Fault">
        <Select
          value={kind}
          options={KINDS}
          onChange={(event) => setKind(event.target.value as Fault["fault"])}
        />
      </Field>
      <Field label="Per cent of the questions or steps">
        <Input value={share} onChange={(event) => setShare(event.target.value)} />
      </Field>
      {kind === "slow_answers" && (
        <Field label="Seconds that an answer is late">
          <Input value={delay} onChange={(event) => setDelay(event.target.value)} />
        </Field>
      )}
      <Field label="Seconds that it lasts" hint="An hour at most">
        <Input value={seconds} onChange={(event) => setSeconds(event.target.value)} />
      </Field>
    </Confirm>
  );
}

function lasts(fault: Fault): boolean {
  return fault.stopped_at === null && Date.parse(fault.until) > Date.now();
}

const COLUMNS: Column<Fault>[] = [
  {
    id: "fault",
    label: "Fault",
    cell: (fault) => KINDS.find(([kind]) => kind === fault.fault)?.[1] ?? fault.fault,
  },
  { id: "state", label: "State", cell: (fault) => <StateMark state={lasts(fault) ? "running" : "ended"} /> },
  { id: "share", label: "Share", num: true, cell: (fault) => percent(fault.share, 0) },
  {
    id: "delay",
    label: "Late by",
    num: true,
    cell: (fault) => (fault.fault === "slow_answers" ? duration(fault.delay_s) : DASH),
  },
  { id: "by", label: "By", cell: (fault) => fault.started_by },
  { id: "started", label: "Began (UTC)", num: true, cell: (fault) => when(fault.started_at, true) },
  {
    id: "ended",
    label: "Until (UTC)",
    num: true,
    cell: (fault) => when(fault.stopped_at ?? fault.until, true),
  },
  {
    id: "do",
    label: "Do",
    cell: (fault) =>
      lasts(fault) ? (
        <Action
          call="POST /code/v1/experiments/{experiment_id}/stop"
          label="Stop"
          run={() =>
            api.POST("/code/v1/experiments/{experiment_id}/stop", {
              params: { path: { experiment_id: fault.id } },
            })
          }
        />
      ) : null,
  },
];
