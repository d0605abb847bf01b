/** Drift: what is watched, what each look found, a look by hand, a new watch. */
import { $api, api, type Schemas } from "../../api";
import { DASH, when } from "../../fmt";
import { useSession } from "../../session";
import { Action } from "../../ui/action";
import { Facts } from "../../ui/controls";
import { May, Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useCursor, useParam } from "../../url";
import { NewWatch } from "./watch";

type Watch = Schemas["DriftWatch"];
type Run = Schemas["DriftRun"];
const LOOKS: Record<string, [string, string]> = {
  none: ["✓", "ok"],
  minor: ["!", "warn"],
  major: ["✕", "bad"],
};

export function Drift() {
  const [name] = useParam("watch");
  const query = $api.useQuery("get", "/api/v1/drift", { params: { query: { limit: 100 } } });
  return (
    <>
      <Loaded query={query} what="the watches">
        {(page) => {
          const chosen = page.data.find((each) => each.name === name);
          return (
            <>
              <Table
                caption="Watches, newest first"
                columns={WATCHES}
                rows={page.data}
                rowKey={(each) => each.id}
                href={(each) => `/evals?tab=drift&watch=${each.name}`}
                empty={
                  <Empty title="Nothing is watched yet">
                    A watch asks a served model prompts with known answers, or compares what a route is asked.
                  </Empty>
                }
              />
              {chosen && <WatchPanel watch={chosen} />}
            </>
          );
        }}
      </Loaded>
      <Looks name={name} />
      <May call="POST /api/v1/drift">
        <NewWatch />
      </May>
    </>
  );
}

/** A watch that moves or holds an alias is an approver's: the service refuses it to others. */
function WatchPanel({ watch }: { watch: Watch }) {
  const { role } = useSession();
  const { config } = watch;
  const acts = config.on_minor !== "tell" || config.on_major !== "tell";
  const mine = !acts || role === "approver" || role === "admin";
  const path = { params: { path: { name: watch.name } } };
  return (
    <Panel
      title={watch.name}
      actions={
        mine && (
          <>
            <Action
              call="POST /api/v1/drift/{name}/run"
              label="Look now"
              run={() => api.POST("/api/v1/drift/{name}/run", { ...path, body: { baseline: false } })}
            />
            <Action
              call="POST /api/v1/drift/{name}/run"
              label="Make this the baseline"
              confirm={{
                title: `Look, and make what is found the baseline of ${watch.name}?`,
                text: "Later looks are compared with it.",
              }}
              run={() => api.POST("/api/v1/drift/{name}/run", { ...path, body: { baseline: true } })}
            />
            <Action
              call="PATCH /api/v1/drift/{name}"
              label={watch.enabled ? "Pause" : "Resume"}
              run={() => api.PATCH("/api/v1/drift/{name}", { ...path, body: { enabled: !watch.enabled } })}
            />
            <Action
              call="DELETE /api/v1/drift/{name}"
              label="Remove"
              look="bad"
              confirm={{
                title: `Forget ${watch.name}?`,
                text: "What it found is forgotten too; the audit log keeps that it did.",
                typed: watch.name,
              }}
              run={() => api.DELETE("/api/v1/drift/{name}", path)}
            />
          </>
        )
      }
    >
      <Facts
        of={[
          ["Asks", config.target ?? DASH],
          ["Prompts", config.canary?.dataset ?? config.canary?.file ?? DASH],
          ["Traffic of", config.traffic?.route ?? DASH],
          ["Schedule", config.schedule ? `${config.schedule} ${config.timezone}` : "by hand"],
          ["Next (UTC)", when(watch.next_at)],
          ["On minor drift", config.on_minor],
          ["On major drift", config.on_major],
          ["By", watch.created_by],
        ]}
      />
    </Panel>
  );
}

/** Of the chosen watch every look, else those of all watches that found something. */
function Looks({ name }: { name: string }) {
  const cursor = useCursor();
  const page = { limit: 50, cursor };
  const before = { placeholderData: <T,>(old: T) => old };
  const events = $api.useQuery(
    "get",
    "/api/v1/drift/events",
    { params: { query: page } },
    { ...before, enabled: !name },
  );
  const runs = $api.useQuery(
    "get",
    "/api/v1/drift/{name}/runs",
    { params: { path: { name }, query: page } },
    { ...before, enabled: Boolean(name) },
  );
  const query = name ? runs : events;
  return (
    <Panel title={name ? `Looks of ${name}` : "Drift that was found"}>
      <Loaded query={query} what="what was found">
        {(found) => (
          <Table
            caption="Looks, newest first"
            columns={RUNS}
            rows={found.data}
            rowKey={(each) => each.id}
            href={(each) => `/jobs/${each.job_id}`}
            nextCursor={found.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={<Empty title={name ? "It has not looked yet" : "No drift was found"} />}
          />
        )}
      </Loaded>
    </Panel>
  );
}

function Severity({ of }: { of: string | null }) {
  if (of === null) return DASH;
  const [sign, look] = LOOKS[of] ?? ["·", "idle"];
  return (
    <span className={`mark mark-${look}`}>
      <span aria-hidden="true">{sign}</span> {of}
    </span>
  );
}

const WATCHES: Column<Watch>[] = [
  { id: "name", label: "Watch", cell: (each) => each.name, sort: (each) => each.name },
  { id: "target", label: "Of", cell: (each) => each.config.target ?? each.config.traffic?.route ?? DASH },
  { id: "severity", label: "Last found", cell: (each) => <Severity of={each.severity} /> },
  { id: "looked", label: "Looked (UTC)", num: true, cell: (each) => when(each.looked_at) },
  {
    id: "enabled",
    label: "Schedule",
    cell: (each) => (each.enabled ? (each.config.schedule ?? DASH) : "‖ paused"),
  },
];

const RUNS: Column<Run>[] = [
  { id: "watch", label: "Watch", cell: (each) => each.watch },
  { id: "severity", label: "Severity", cell: (each) => <Severity of={each.severity} /> },
  { id: "version", label: "Version", num: true, cell: (each) => each.version ?? DASH },
  {
    id: "why",
    label: "Why",
    cell: (each) => (
      <span className="wrap">{each.baseline ? "baseline" : each.reasons.join("; ") || DASH}</span>
    ),
  },
  { id: "action", label: "What followed", cell: (each) => each.action || DASH },
  { id: "at", label: "At (UTC)", num: true, cell: (each) => when(each.at, true) },
];
