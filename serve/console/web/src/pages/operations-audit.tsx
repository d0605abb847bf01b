/** Who changed what: each row with what was before and after it, and the proof that no row was changed since. */
import { type ReactNode, useState } from "react";
import { Link, useSearchParams } from "wouter";
import { $api, api, type Schemas } from "../api";
import { DASH, num, when } from "../fmt";
import { save } from "../save";
import { Action } from "../ui/action";
import { Facts, Field, Input, Pre } from "../ui/controls";
import { Diff } from "../ui/diff";
import { Panel } from "../ui/page";
import { Empty, Loaded, Notice } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useTyped } from "../url";

type Row = Schemas["AuditEvent"];

export function Audit() {
  const [params] = useSearchParams();
  const cursor = useCursor();
  const [object, setObject, ofObject] = useTyped("object");
  const [actor, setActor, ofActor] = useTyped("actor");
  const chosen = Number(params.get("row") ?? "0");
  const query = $api.useQuery(
    "get",
    "/api/v1/audit",
    {
      params: {
        query: { object: ofObject || undefined, actor: ofActor || undefined, limit: 50, cursor },
      },
    },
    { placeholderData: (before) => before },
  );
  /** The same page of the list, with that row opened or none. */
  const at = (seq: number | null) => {
    const next = new URLSearchParams(params);
    next.delete("row");
    if (seq !== null) next.set("row", String(seq));
    return `/ops?${next}`;
  };
  return (
    <>
      <Proof />
      <search className="filters">
        <Field label="Who">
          <Input data-search value={actor} onChange={(event) => setActor(event.target.value)} />
        </Field>
        <Field label="Object">
          <Input
            placeholder="route/support"
            value={object}
            onChange={(event) => setObject(event.target.value)}
          />
        </Field>
      </search>
      <Loaded query={query} what="the audit log" rows={12}>
        {(page) => {
          const row = page.data.find((each) => each.seq === chosen);
          return (
            <>
              {chosen > 0 && !row && (
                <Notice kind="warn">
                  Row {num(chosen)} is not on this page of the log. <Link href={at(null)}>Leave it</Link>
                </Notice>
              )}
              {row && <OneRow row={row} back={at(null)} />}
              <Table
                caption="Audit log, newest first"
                columns={COLUMNS}
                rows={page.data}
                rowKey={(each) => String(each.seq)}
                href={(each) => at(each.seq)}
                nextCursor={page.next_cursor ?? null}
                busy={query.isPlaceholderData}
                empty={
                  <Empty
                    title={ofObject || ofActor ? "No row fits these filters" : "Nothing was changed yet"}
                  >
                    Names are whole.
                  </Empty>
                }
              />
            </>
          );
        }}
      </Loaded>
    </>
  );
}

/** Of a row of the log; `otherwise` stands where it tells of neither. */
export function BeforeAfter({ row, otherwise }: { row: Row; otherwise: ReactNode }) {
  const text = (value: Row["before"]) => (value ? JSON.stringify(value, null, 2) : "");
  if (!row.before && !row.after) return otherwise;
  return <Diff before={text(row.before)} after={text(row.after)} label={`Before and after row ${row.seq}`} />;
}

function OneRow({ row, back }: { row: Row; back: string }) {
  const detail = Object.keys(row.detail).length > 0;
  return (
    <Panel title={`Row ${num(row.seq)}`} actions={<Link href={back}>Close</Link>}>
      <Facts
        of={[
          ["At (UTC)", when(row.at, true)],
          ["Who", row.actor],
          ["Action", row.action],
          ["Object", row.object],
          ["Address", row.address ?? DASH],
          ["Request", row.request_id ?? DASH],
          ["Hash", row.hash],
        ]}
      />
      <BeforeAfter row={row} otherwise={<p className="small">The row tells of no before and after.</p>} />
      {detail && <Pre label={`Details of row ${row.seq}`}>{JSON.stringify(row.detail, null, 2)}</Pre>}
    </Panel>
  );
}

function Proof() {
  const [check, setCheck] = useState<Schemas["AuditCheck"] | null>(null);
  const verify = async () => {
    setCheck(null);
    const { data } = await api.GET("/api/v1/audit/verify");
    setCheck(data ?? null);
  };
  const root = async () => {
    const { data } = await api.POST("/api/v1/audit/roots");
    if (data) save("audit-root.json", JSON.stringify(data.envelope, null, 2), "application/json");
  };
  return (
    <Panel
      title="Proof"
      actions={
        <>
          <Action call="GET /api/v1/audit/verify" label="Verify the log" run={verify} />
          <Action call="POST /api/v1/audit/roots" label="Sign a root and save it" run={root} />
        </>
      }
    >
      {check ? (
        <>
          <Notice kind="ok">
            The log is whole: {num(check.rows)} rows, each with the hash of the one before it.
          </Notice>
          <Facts
            of={[
              ["Vouched for by signed roots", `${num(check.vouched)} rows`],
              ["Head", check.head ?? DASH],
              ["Root", check.root || DASH],
            ]}
          />
        </>
      ) : (
        <p className="small">
          Verifying walks the whole log and its signed roots; a broken one is told with its row. Keep a root
          where the service cannot write: what it vouches for cannot be changed unseen any more.
        </p>
      )}
    </Panel>
  );
}

const COLUMNS: Column<Row>[] = [
  { id: "seq", label: "Row", cell: (row) => num(row.seq) },
  { id: "at", label: "At (UTC)", num: true, cell: (row) => when(row.at, true) },
  { id: "actor", label: "Who", cell: (row) => row.actor, sort: (row) => row.actor },
  { id: "action", label: "Action", cell: (row) => row.action, sort: (row) => row.action },
  {
    id: "object",
    label: "Object",
    cell: (row) => <span className="wrap">{row.object}</span>,
    sort: (row) => row.object,
  },
  { id: "address", label: "Address", num: true, cell: (row) => row.address ?? DASH },
];
