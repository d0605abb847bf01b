/** What each alias pointed to when: the moves, and a slider that asks the service for the state at a time. */
import { Link } from "wouter";
import { $api, type Schemas } from "../../api";
import { DASH, when } from "../../fmt";
import { Button, Facts, Field } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useCursor, useTyped } from "../../url";
import { aliasesOf } from "../registry";

type Move = Schemas["AliasMove"];

export function AliasHistory({ name }: { name: string }) {
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/llms/{name}/aliases/history",
    { params: { path: { name }, query: { limit: 100, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <Loaded query={query} what="the history of its aliases">
      {(page) => (
        <>
          {page.data.length > 0 && <AsOf name={name} moves={page.data} />}
          <Table
            caption={`Moves of the aliases of ${name}, newest first`}
            columns={MOVES}
            rows={page.data}
            rowKey={(each) => `${each.alias} ${each.moved_at}`}
            href={(each) => `/promotions?id=${each.promotion_id}`}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={<Empty title="No alias has moved yet" />}
          />
        </>
      )}
    </Loaded>
  );
}

/** The slider steps from one move to the next; its place is a time, and stands in the address. */
function AsOf({ name, moves }: { name: string; moves: readonly Move[] }) {
  const [text, setText, at] = useTyped("as_of");
  const times = [...new Set(moves.map((each) => each.moved_at))].sort();
  const place = text ? times.findLastIndex((time) => time <= text) : times.length - 1;
  const query = $api.useQuery(
    "get",
    "/api/v1/llms/{name}",
    { params: { path: { name }, query: { as_of: at || undefined } } },
    { placeholderData: (before) => before },
  );
  return (
    <Panel title="As it was">
      <Field label={at ? `At ${when(at, true)} UTC` : "Now"}>
        <input
          type="range"
          min={0}
          max={Math.max(0, times.length - 1)}
          step={1}
          value={Math.max(0, place)}
          aria-valuetext={at ? when(at, true) : "now"}
          onChange={(event) => {
            const to = Number(event.target.value);
            setText(to === times.length - 1 ? "" : (times[to] ?? ""));
          }}
        />
      </Field>
      <Loaded query={query} what="its aliases at that time">
        {(llm) => (
          <Facts
            of={[
              ["Aliases", aliasesOf(llm.aliases)],
              ["Frozen now", llm.frozen.join(", ") || DASH],
            ]}
          />
        )}
      </Loaded>
      <div className="actions">
        <Button disabled={!at} onClick={() => setText("")}>
          To now
        </Button>
      </div>
    </Panel>
  );
}

const MOVES: Column<Move>[] = [
  { id: "alias", label: "Alias", cell: (each) => each.alias, sort: (each) => each.alias },
  { id: "from", label: "From", num: true, cell: (each) => each.previous_version ?? DASH },
  { id: "to", label: "To", num: true, cell: (each) => each.version },
  { id: "actor", label: "By", cell: (each) => each.actor },
  {
    id: "at",
    label: "At (UTC)",
    num: true,
    cell: (each) => when(each.moved_at, true),
    sort: (each) => each.moved_at,
  },
];

/** Where a version's own moves are told. */
export function MovesOf({ moves }: { moves: readonly Move[] }) {
  if (moves.length === 0) return <Empty title="No alias has pointed to it" />;
  return (
    <ul>
      {moves.map((each) => (
        <li key={`${each.alias} ${each.moved_at}`}>
          <Link href={`/promotions?id=${each.promotion_id}`}>{each.alias}</Link> {when(each.moved_at, true)}{" "}
          by {each.actor}
        </li>
      ))}
    </ul>
  );
}
