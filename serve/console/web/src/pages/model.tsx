/** One model: its versions, its aliases now and at any time before, and who moved them. */
import { Link, useParams } from "wouter";
import { $api, api, type Schemas } from "../api";
import { DASH, sig, when } from "../fmt";
import { Action } from "../ui/action";
import { ReasonAction } from "../ui/call-form";
import { Tabs } from "../ui/controls";
import { Page, Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useParam } from "../url";
import { AliasHistory } from "./registry/history";

type Version = Schemas["Version"];
type Llm = Schemas["Llm"];
const TABS = [
  ["versions", "Versions"],
  ["history", "Alias history"],
] as const;

export default function Model() {
  const { name = "" } = useParams();
  const [tab, setTab] = useParam("tab", "versions");
  const query = $api.useQuery("get", "/api/v1/llms/{name}", { params: { path: { name } } });
  return (
    <Page title={name}>
      <Loaded query={query} what="this model">
        {(llm) => (
          <>
            <Aliases llm={llm} />
            <Tabs label="About this model" tabs={TABS} chosen={tab} choose={setTab}>
              {tab === "history" ? <AliasHistory name={name} /> : <Versions name={name} />}
            </Tabs>
          </>
        )}
      </Loaded>
      <p className="small">
        <Link href="/registry">All models</Link>
      </p>
    </Page>
  );
}

/** Where each alias points, and what may be done with it. */
function Aliases({ llm }: { llm: Llm }) {
  const rows = Object.entries(llm.aliases);
  if (rows.length === 0) {
    return <Empty title="No alias points to it">A promotion moves an alias, such as production.</Empty>;
  }
  return (
    <div className="panels">
      {rows.map(([alias, version]) => {
        const frozen = llm.frozen.includes(alias);
        const path = { params: { path: { name: llm.name, alias } } };
        return (
          <Panel key={alias} title={alias}>
            <p>
              <Link href={`/registry/${llm.name}/${version}`}>Version {version}</Link>
              {frozen && <span className="mark mark-warn"> ‖ frozen</span>}
            </p>
            <div className="actions">
              {frozen ? (
                <Action
                  call="POST /api/v1/llms/{name}/aliases/{alias}/unfreeze"
                  label="Let it move"
                  run={() => api.POST("/api/v1/llms/{name}/aliases/{alias}/unfreeze", path)}
                />
              ) : (
                <ReasonAction
                  call="POST /api/v1/llms/{name}/aliases/{alias}/freeze"
                  label="Freeze"
                  title={`Hold ${llm.name}@${alias} at version ${version}?`}
                  text="Promotions to it and roll backs are refused until somebody lets it move."
                  run={(reason) =>
                    api.POST("/api/v1/llms/{name}/aliases/{alias}/freeze", { ...path, body: { reason } })
                  }
                />
              )}
              {!frozen && (
                <ReasonAction
                  call="POST /api/v1/llms/{name}/aliases/{alias}/rollback"
                  label="Roll back"
                  bad
                  title={`Move ${llm.name}@${alias} back from version ${version}?`}
                  text="It goes to the version before, without approvals; the policy is asked. Where a canary runs, that ends and the alias stays."
                  run={(reason) =>
                    api.POST("/api/v1/llms/{name}/aliases/{alias}/rollback", { ...path, body: { reason } })
                  }
                />
              )}
            </div>
          </Panel>
        );
      })}
    </div>
  );
}

function Versions({ name }: { name: string }) {
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/llms/{name}/versions",
    { params: { path: { name }, query: { limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <Loaded query={query} what="its versions" rows={6}>
      {(page) => (
        <Table
          caption={`Versions of ${name}, newest first`}
          columns={VERSIONS}
          rows={page.data}
          rowKey={(each) => each.id}
          href={(each) => `/registry/${name}/${each.number}`}
          nextCursor={page.next_cursor ?? null}
          busy={query.isPlaceholderData}
          empty={<Empty title="No version yet" />}
        />
      )}
    </Loaded>
  );
}

export function scoresOf(scores: Record<string, number>): string {
  return (
    Object.entries(scores)
      .map(([task, score]) => `${task} ${sig(score)}`)
      .join(", ") || DASH
  );
}

const VERSIONS: Column<Version>[] = [
  { id: "number", label: "Version", cell: (each) => each.number, sort: (each) => each.number },
  { id: "aliases", label: "Aliases", cell: (each) => each.aliases.join(", ") || DASH },
  {
    id: "state",
    label: "State",
    cell: (each) => (each.archived ? <span className="mark mark-idle">⊘ archived</span> : "kept"),
  },
  { id: "scores", label: "Scores", cell: (each) => <span className="wrap">{scoresOf(each.scores)}</span> },
  {
    id: "created",
    label: "Created (UTC)",
    num: true,
    cell: (each) => when(each.created_at),
    sort: (each) => each.created_at,
  },
];
