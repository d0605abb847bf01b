/** Models that are registered: their newest version, and where their aliases point. */
import { $api, type Schemas } from "../api";
import { DASH, when } from "../fmt";
import { Page } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor } from "../url";

type Llm = Schemas["Llm"];

export default function Registry() {
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/llms",
    { params: { query: { limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <Page title="Registry">
      <Loaded query={query} what="the models" rows={8}>
        {(page) => (
          <Table
            caption="Models, newest first"
            columns={MODELS}
            rows={page.data}
            rowKey={(each) => each.id}
            href={(each) => `/registry/${each.name}`}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              <Empty title="No model yet">
                A training run registers one: start it under New run, or: <code>raymill run recipe.yaml</code>
              </Empty>
            }
          />
        )}
      </Loaded>
    </Page>
  );
}

export function aliasesOf(aliases: Record<string, number>, frozen: readonly string[] = []): string {
  const told = Object.entries(aliases).map(
    ([alias, version]) => `${alias} → ${version}${frozen.includes(alias) ? " (frozen)" : ""}`,
  );
  return told.join(", ") || DASH;
}

const MODELS: Column<Llm>[] = [
  { id: "name", label: "Model", cell: (each) => each.name, sort: (each) => each.name },
  {
    id: "latest",
    label: "Newest version",
    num: true,
    cell: (each) => each.latest_version ?? DASH,
    sort: (each) => each.latest_version,
  },
  {
    id: "aliases",
    label: "Aliases",
    cell: (each) => <span className="wrap">{aliasesOf(each.aliases, each.frozen)}</span>,
  },
  {
    id: "created",
    label: "Created (UTC)",
    num: true,
    cell: (each) => when(each.created_at),
    sort: (each) => each.created_at,
  },
];
