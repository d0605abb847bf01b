/** Logins that have not ended, and ending one. */
import { $api, api, type Schemas } from "../api";
import { DASH, when } from "../fmt";
import { Action } from "../ui/action";
import { Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";

export function Sessions({ account }: { account: string }) {
  const query = $api.useQuery("get", "/api/v1/sessions", { params: { query: { account } } });
  return (
    <Panel title="Sessions">
      <Loaded query={query} what="the sessions">
        {(page) => (
          <Table
            caption={`Sessions of ${account}`}
            columns={COLUMNS}
            rows={page.data}
            rowKey={(session) => session.id}
            empty={<Empty title="Nobody is logged in" />}
          />
        )}
      </Loaded>
    </Panel>
  );
}

const COLUMNS: Column<Schemas["LoginSession"]>[] = [
  { id: "method", label: "By", cell: (session) => session.method },
  { id: "address", label: "From", num: true, cell: (session) => session.address ?? DASH },
  {
    id: "created",
    label: "Since (UTC)",
    num: true,
    cell: (session) => when(session.created_at),
    sort: (session) => session.created_at,
  },
  {
    id: "used",
    label: "Used (UTC)",
    num: true,
    cell: (session) => when(session.used_at),
    sort: (session) => session.used_at,
  },
  { id: "expires", label: "Ends (UTC)", num: true, cell: (session) => when(session.expires_at) },
  {
    id: "do",
    label: "Do",
    cell: (session) =>
      session.current ? (
        "this one"
      ) : (
        <Action
          call="DELETE /api/v1/sessions/{session_id}"
          label="End it"
          look="bad"
          confirm={{
            title: "End this session?",
            text: "Whoever has it is logged out at once, and has to log in again.",
          }}
          run={() =>
            api.DELETE("/api/v1/sessions/{session_id}", { params: { path: { session_id: session.id } } })
          }
        />
      ),
  },
];
