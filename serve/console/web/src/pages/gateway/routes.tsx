/** Routes: model names of ours, who answers for each by weight and in which order, and whose breaker is open. */
import { $api, api, type Schemas } from "../../api";
import { percent, when } from "../../fmt";
import { Action } from "../../ui/action";
import { Button } from "../../ui/controls";
import { May, Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useCursor, useParam } from "../../url";
import { BreakerMark, useBreakers } from "./breakers";
import { RouteEditor } from "./route-editor";
import { chainOf } from "./route-form";

type Route = Schemas["Route"];
type Link = ReturnType<typeof chainOf>[number];

export function Routes() {
  const [name, choose] = useParam("edited");
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/routes",
    { params: { query: { limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <Loaded query={query} what="the routes" rows={6}>
        {(page) => (
          <Table
            caption="Routes, newest first"
            columns={ROUTES}
            rows={page.data}
            rowKey={(each) => each.id}
            href={(each) => `/gateway?tab=routes&edited=${encodeURIComponent(each.name)}`}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              <Empty title="No route yet">
                Providers' models are asked as <code>PROVIDER/MODEL</code>; a route gives several of them one
                name.
              </Empty>
            }
          />
        )}
      </Loaded>
      {name ? (
        <RouteDetail key={name} name={name} />
      ) : (
        <May call="PUT /api/v1/routes/{name}">
          <Panel title="New route">
            <RouteEditor name="" config={{}} saved={choose} />
          </Panel>
        </May>
      )}
    </>
  );
}

function RouteDetail({ name }: { name: string }) {
  const [, choose] = useParam("edited");
  const query = $api.useQuery("get", "/api/v1/routes/{name}", { params: { path: { name } } });
  const path = { params: { path: { name } } };
  return (
    <Panel
      title={name}
      actions={
        query.data && (
          <>
            <Action
              call="PATCH /api/v1/routes/{name}"
              label={query.data.enabled ? "Do not answer" : "Answer"}
              run={() =>
                api.PATCH("/api/v1/routes/{name}", { ...path, body: { enabled: !query.data?.enabled } })
              }
            />
            <Action
              call="DELETE /api/v1/routes/{name}"
              label="Remove"
              look="bad"
              confirm={{
                title: `Remove the route ${name}?`,
                text: "Its name means nothing from then on. It is refused while a preset speaks through it.",
              }}
              run={async () => {
                await api.DELETE("/api/v1/routes/{name}", path);
                choose("");
              }}
            />
            <Button onClick={() => choose("")}>Close</Button>
          </>
        )
      }
    >
      <Loaded query={query} what={name}>
        {(route) => (
          <>
            <Chain config={route.config} />
            <May call="PUT /api/v1/routes/{name}">
              <RouteEditor name={route.name} config={route.config} saved={() => {}} />
            </May>
          </>
        )}
      </Loaded>
    </Panel>
  );
}

/** With the breakers of all replicas; a closed one is not told. */
function Chain({ config }: { config: Route["config"] }) {
  const status = useBreakers();
  const columns: Column<Link>[] = [
    ...CHAIN,
    {
      id: "breaker",
      label: "Breaker",
      cell: ({ target }) =>
        status.data ? (
          <BreakerMark state={status.data.gateway.breakers[`${target.provider}/${target.model}`]} />
        ) : (
          "unknown"
        ),
    },
  ];
  return (
    <Table
      caption="Who answers, and in which order"
      columns={columns}
      rows={chainOf(config)}
      rowKey={({ order, target }) => `${order} ${target.provider}/${target.model}`}
    />
  );
}

const CHAIN: Column<Link>[] = [
  { id: "target", label: "Target", cell: ({ target }) => `${target.provider}/${target.model}` },
  { id: "order", label: "Order", num: true, cell: ({ order }) => order },
  { id: "weight", label: "Weight", num: true, cell: ({ target }) => target.weight },
  { id: "share", label: "Share of its order", num: true, cell: ({ share }) => percent(share, 0) },
];

function chainText(route: Route): string {
  const chain = chainOf(route.config);
  const orders = [...new Set(chain.map(({ order }) => order))];
  return orders
    .map((order) =>
      chain
        .filter((each) => each.order === order)
        .map(({ target, share }) => `${target.provider}/${target.model} ${percent(share, 0)}`)
        .join(" + "),
    )
    .join(", then ");
}

const ROUTES: Column<Route>[] = [
  { id: "name", label: "Route", cell: (each) => each.name, sort: (each) => each.name },
  {
    id: "enabled",
    label: "Answers",
    cell: (each) => (each.enabled ? "yes" : <span className="mark mark-warn">‖ no</span>),
  },
  { id: "chain", label: "By", cell: (each) => <span className="wrap">{chainText(each)}</span> },
  { id: "traces", label: "Keeps prompts", cell: (each) => (each.config.keep_traces ? "yes" : "no") },
  { id: "created", label: "Created (UTC)", num: true, cell: (each) => when(each.created_at) },
];
