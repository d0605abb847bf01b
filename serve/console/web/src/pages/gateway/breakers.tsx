/** Breakers of all replicas: a target that fails too often is left alone for a while. Closed ones are not told. */
import { $api } from "../../api";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";

export function useBreakers() {
  return $api.useQuery("get", "/api/v1/status", {}, { refetchInterval: 10_000 });
}

export function BreakerMark({ state }: { state: string | undefined }) {
  if (!state) return "✓ closed";
  return (
    <span className={`mark mark-${state === "open" ? "bad" : "warn"}`}>
      <span aria-hidden="true">{state === "open" ? "✕" : "!"}</span> {state.replace("_", "-")}
    </span>
  );
}

export function Breakers() {
  const query = useBreakers();
  return (
    <Panel title="Breakers that are not closed">
      <Loaded query={query} what="the breakers" rows={1}>
        {(status) => (
          <Table
            caption="Breakers that are not closed"
            columns={BREAKERS}
            rows={Object.entries(status.gateway.breakers)}
            rowKey={([target]) => target}
            empty={<Empty title="All are closed" />}
          />
        )}
      </Loaded>
    </Panel>
  );
}

const BREAKERS: Column<[string, string]>[] = [
  { id: "target", label: "Target", cell: ([target]) => target, sort: ([target]) => target },
  { id: "state", label: "State", cell: ([, state]) => <BreakerMark state={state} /> },
];
