/** What was set while the service ran (routes, presets, prices, limits, queues, …): each change with what was before, to be put back. */
import { $api, api, type Schemas } from "../api";
import { num, when } from "../fmt";
import { Action } from "../ui/action";
import { Field, Input, Pre, Select } from "../ui/controls";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useParam, useTyped } from "../url";
import { BeforeAfter } from "./operations-audit";

type Row = Schemas["AuditEvent"];
const KINDS = ["route", "preset", "provider", "price", "tier", "budget", "queue", "environment", "team"];

export function Configuration() {
  const [kind, setKind] = useParam("kind");
  const [object, setObject, ofObject] = useTyped("object");
  const cursor = useCursor();
  const kinds = KINDS.includes(kind) ? kind : KINDS.join(",");
  const query = $api.useQuery(
    "get",
    "/api/v1/audit",
    { params: { query: { kinds, object: ofObject || undefined, limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <search className="filters">
        <Field label="What">
          <Select
            data-search
            value={kind}
            options={[["", "anything"], ...KINDS]}
            onChange={(event) => setKind(event.target.value)}
          />
        </Field>
        <Field label="Object">
          <Input
            placeholder="route/support"
            value={object}
            onChange={(event) => setObject(event.target.value)}
          />
        </Field>
      </search>
      <Loaded query={query} what="what was changed" rows={12}>
        {(page) => (
          <Table
            caption="Changes of the configuration, newest first"
            columns={COLUMNS}
            rows={page.data}
            rowKey={(row) => String(row.seq)}
            detail={shown}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              <Empty title={kind || ofObject ? "No change fits these filters" : "Nothing was set yet"}>
                Objects are whole, such as <code>route/support</code>.
              </Empty>
            }
          />
        )}
      </Loaded>
    </>
  );
}

function shown(row: Row) {
  return (
    <div className="stack">
      <BeforeAfter
        row={row}
        otherwise={<Pre label={`Row ${row.seq}`}>{JSON.stringify(row.detail, null, 2)}</Pre>}
      />
      <PutBack row={row} />
    </div>
  );
}

/** Sets again what stood before that change, by the route that sets it; that is a change of its own. */
function PutBack({ row }: { row: Row }) {
  const { before } = row;
  const [kind = "", ...rest] = row.object.split("/");
  const back = before && BACK[kind];
  if (!back || !before) return null;
  return (
    <div className="actions">
      <Action
        call={back.call}
        label="Put back what was before"
        confirm={{
          title: `Put ${row.object} back?`,
          text: `It is set to what it was before row ${num(row.seq)}, whatever came after it.`,
        }}
        run={() => back.run(rest.join("/"), before)}
      />
    </div>
  );
}

type Before = NonNullable<Row["before"]>;
type Back = {
  call: Parameters<typeof Action>[0]["call"];
  run: (name: string, before: Before) => Promise<unknown>;
};

const BACK: Record<string, Back> = {
  route: {
    call: "PUT /api/v1/routes/{name}",
    run: (name, config) => api.PUT("/api/v1/routes/{name}", { params: { path: { name } }, body: { config } }),
  },
  preset: {
    call: "PUT /api/v1/presets/{name}",
    run: (name, before) =>
      api.PUT("/api/v1/presets/{name}", {
        params: { path: { name } },
        body: before as Schemas["PresetRequest"],
      }),
  },
  tier: {
    call: "PUT /api/v1/tiers/{name}",
    run: (name, limits) =>
      api.PUT("/api/v1/tiers/{name}", {
        params: { path: { name } },
        body: { limits } as Schemas["TierRequest"],
      }),
  },
  price: {
    call: "PUT /api/v1/prices/{provider}/{model}",
    run: (name, before) => {
      const [provider = "", ...model] = name.split("/");
      return api.PUT("/api/v1/prices/{provider}/{model}", {
        params: { path: { provider, model: model.join("/") } },
        body: before as Schemas["PriceRequest"],
      });
    },
  },
  queue: {
    call: "PUT /api/v1/queues/{name}",
    run: (name, before) =>
      api.PUT("/api/v1/queues/{name}", {
        params: { path: { name } },
        body: before as Schemas["QueueSettings"],
      }),
  },
};

const COLUMNS: Column<Row>[] = [
  { id: "at", label: "At (UTC)", cell: (row) => when(row.at, true) },
  { id: "object", label: "What", cell: (row) => row.object, sort: (row) => row.object },
  { id: "action", label: "Change", cell: (row) => row.action, sort: (row) => row.action },
  { id: "actor", label: "By", cell: (row) => row.actor, sort: (row) => row.actor },
  { id: "seq", label: "Row of the log", num: true, cell: (row) => num(row.seq) },
];
