/** Whether all is well: what is wrong with its cure, the parts that run, nodes, breakers, backups. */
import { useQuery } from "@tanstack/react-query";
import { $api, api, type Schemas } from "../api";
import { bytes, DASH, duration, num, percent, since, when } from "../fmt";
import { useMay } from "../session";
import { Facts, StateMark } from "../ui/controls";
import { Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";

type Status = Schemas["Status"];

export function Health() {
  const query = $api.useQuery("get", "/api/v1/status", {}, { refetchInterval: 10_000 });
  return (
    <Loaded query={query} what="the service's state" rows={8}>
      {(status) => (
        <>
          <Panel title="What is wrong">
            <Table
              caption="What is wrong, the worst first"
              columns={ALERTS}
              rows={status.alerts}
              rowKey={(alert) => `${alert.name} ${alert.subject} ${alert.message}`}
              empty={<Empty title="Nothing is known to be wrong" />}
            />
          </Panel>
          <div className="panels">
            <Parts status={status} />
            <Backups />
          </div>
          <Panel title="Nodes">
            <Table
              caption="Nodes"
              columns={NODES}
              rows={status.nodes}
              rowKey={(node) => String(node.node_id)}
              empty={<Empty title="No node is known">The control plane is not connected to Ray.</Empty>}
            />
          </Panel>
          <Panel title="Canaries">
            <Table
              caption="Versions that answer a share of an alias's requests"
              columns={CANARIES}
              rows={status.canaries}
              rowKey={(each) => `${each.llm}@${each.alias}`}
              href={() => "/promotions"}
              empty={<Empty title="No version is tried" />}
            />
          </Panel>
        </>
      )}
    </Loaded>
  );
}

function Parts({ status }: { status: Status }) {
  const breakers = Object.entries(status.gateway.breakers);
  return (
    <Panel title="Parts">
      <Facts
        of={[
          ["Version", status.version],
          ["Database", status.database],
          ...Object.entries(status.parts).map(([part, count]) => [part, num(count)] as const),
          ["Gateway, requests now", num(status.gateway.in_flight)],
          ["Jobs that wait", num(status.jobs.queued ?? 0)],
          ["Jobs that run", num(status.jobs.running ?? 0)],
          ["As of (UTC)", when(status.at, true)],
        ]}
      />
      {breakers.length === 0 ? (
        <p className="small">Every breaker is closed.</p>
      ) : (
        <Facts
          of={breakers.map(([target, state]) => [
            `Breaker of ${target}`,
            <StateMark key={target} state={state.replace("_", "-")} />,
          ])}
        />
      )}
    </Panel>
  );
}

const PREFIX = "raymill_backup_";

/** The API tells of backups in its metrics alone; they are made, proven and restored with the command. */
function Backups() {
  const query = useQuery({
    queryKey: ["get", "/metrics"],
    queryFn: async () =>
      numbersOf((await api.GET("/metrics", { parseAs: "text" })).data as unknown as string),
    enabled: useMay("GET /metrics"),
    refetchInterval: 60_000,
  });
  return (
    <Panel title="Backups">
      <Loaded query={query} what="what is known of backups">
        {(known) => {
          const newest = timeOf(known.last_success_timestamp_seconds);
          const proven = timeOf(known.last_proven_timestamp_seconds);
          return (
            <Facts
              of={[
                ["Newest (UTC)", when(newest)],
                ["Age", duration(since(newest))],
                ["Newest that was restored and found equal", when(proven)],
                ["One is to be taken every", duration(known.interval_seconds || null)],
              ]}
            />
          );
        }}
      </Loaded>
      <p className="small">
        <code>raymill backup create</code> makes one, <code>raymill backup prove</code> restores it elsewhere
        and compares.
      </p>
    </Panel>
  );
}

/** `raymill_backup_NAME VALUE` of Prometheus' text form, by name. */
export function numbersOf(text: string): Record<string, number> {
  const found: Record<string, number> = {};
  for (const line of text.split("\n")) {
    if (!line.startsWith(PREFIX)) continue;
    const [name = "", value] = line.slice(PREFIX.length).split(" ");
    found[name] = Number(value);
  }
  return found;
}

function timeOf(seconds: number | undefined): string | null {
  return seconds ? new Date(seconds * 1000).toISOString() : null;
}

const ALERTS: Column<Schemas["Alert"]>[] = [
  { id: "subject", label: "What", cell: (alert) => alert.subject },
  {
    id: "severity",
    label: "Severity",
    cell: (alert) =>
      alert.severity === "critical" ? (
        <span className="mark mark-bad">
          <span aria-hidden="true">✕</span> critical
        </span>
      ) : (
        <span className="mark mark-warn">
          <span aria-hidden="true">!</span> warning
        </span>
      ),
    sort: (alert) => alert.severity,
  },
  { id: "message", label: "Why", cell: (alert) => <span className="wrap">{alert.message}</span> },
  { id: "cure", label: "Cure", cell: (alert) => <span className="wrap">{alert.cure}</span> },
];

function resources(value: unknown): string {
  if (typeof value !== "object" || value === null) return DASH;
  return Object.entries(value)
    .map(
      ([name, amount]) => `${name} ${name.includes("memory") ? bytes(Number(amount)) : num(Number(amount))}`,
    )
    .join(", ");
}

const NODES: Column<Status["nodes"][number]>[] = [
  { id: "id", label: "Node", cell: (node) => <code>{String(node.node_id).slice(0, 12)}</code> },
  { id: "alive", label: "State", cell: (node) => <StateMark state={node.alive ? "ready" : "dead"} /> },
  { id: "has", label: "Has", cell: (node) => <span className="wrap">{resources(node.resources)}</span> },
  { id: "free", label: "Free", cell: (node) => <span className="wrap">{resources(node.available)}</span> },
];

const CANARIES: Column<Schemas["RunningCanary"]>[] = [
  { id: "llm", label: "Model", cell: (each) => `${each.llm}@${each.alias}` },
  { id: "version", label: "Version", num: true, cell: (each) => each.version },
  { id: "state", label: "State", cell: (each) => <StateMark state={each.state} /> },
  { id: "share", label: "Share", num: true, cell: (each) => percent(each.share) },
  { id: "age", label: "For", num: true, cell: (each) => duration(each.age_s) },
];
