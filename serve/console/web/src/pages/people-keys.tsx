/** API keys: making one, which is shown once, and revoking. */
import { useState } from "react";
import { $api, api, type Schemas } from "../api";
import { DASH, when } from "../fmt";
import { useSession } from "../session";
import { Action } from "../ui/action";
import { CallForm, Unfolding } from "../ui/call-form";
import { Button, Field, Input, Pre, StateMark } from "../ui/controls";
import { Dialog } from "../ui/dialog";
import { Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor } from "../url";
import { whole } from "../whole";

type Key = Schemas["ApiKey"];
type Scope = NonNullable<Schemas["ApiKeyRequest"]["scopes"]>[number];
const SCOPES: readonly (readonly [Scope, string])[] = [
  ["gateway", "gateway: ask models"],
  ["read", "read: see what the account may see"],
  ["write", "write: change what the account may change"],
];

export function Keys() {
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/keys",
    { params: { query: { limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <Unfolding call="POST /api/v1/keys" label="New key">
        {(close) => <NewKey close={close} />}
      </Unfolding>
      <Loaded query={query} what="the keys" rows={8}>
        {(page) => (
          <Table
            caption="Keys, newest first"
            columns={COLUMNS}
            rows={page.data}
            rowKey={(key) => key.id}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={<Empty title="No key yet">Programs come with one; people may log in instead.</Empty>}
          />
        )}
      </Loaded>
    </>
  );
}

function NewKey({ close }: { close: () => void }) {
  const me = useSession();
  const [account, setAccount] = useState(me.account);
  const [name, setName] = useState("");
  const [days, setDays] = useState("90");
  const [scopes, setScopes] = useState<readonly Scope[]>([]);
  const [made, setMade] = useState<string | null>(null);
  const run = async () => {
    const { data } = await api.POST("/api/v1/keys", {
      body: { account, name, expires_in_days: whole(days), scopes: [...scopes] },
    });
    setMade(data?.key ?? null);
  };
  return (
    <Panel title="New key">
      <CallForm
        call="POST /api/v1/keys"
        action="Make it"
        disabled={!name || !account}
        run={run}
        more={<Button onClick={close}>Leave it</Button>}
      >
        <div className="pair">
          <Field label="Account">
            <Input value={account} onChange={(event) => setAccount(event.target.value)} />
          </Field>
          <Field label="Name" hint="What it is for, such as nightly-eval">
            <Input value={name} onChange={(event) => setName(event.target.value)} />
          </Field>
          <Field label="Days that it lasts" hint="Empty: for ever">
            <Input inputMode="numeric" value={days} onChange={(event) => setDays(event.target.value)} />
          </Field>
        </div>
        <fieldset className="plain stack">
          <legend>For (none: everything that the account may)</legend>
          {SCOPES.map(([scope, text]) => (
            <label className="inline" key={scope}>
              <input
                type="checkbox"
                checked={scopes.includes(scope)}
                onChange={(event) =>
                  setScopes(
                    event.target.checked ? [...scopes, scope] : scopes.filter((each) => each !== scope),
                  )
                }
              />{" "}
              {text}
            </label>
          ))}
        </fieldset>
      </CallForm>
      {made && <Once text={made} close={close} />}
    </Panel>
  );
}

/** What is not kept anywhere: once closed, it is gone from here too. */
function Once({ text, close }: { text: string; close: () => void }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
  };
  return (
    <Dialog title="The key, shown this once" close={close}>
      <div className="dialog-text">
        <p>Keep it now: only its beginning is kept here.</p>
        <Pre label="The key">{text}</Pre>
      </div>
      <div className="actions actions-end">
        {navigator.clipboard && <Button onClick={() => void copy()}>{copied ? "Copied" : "Copy"}</Button>}
        <Button look="main" onClick={close}>
          I have it
        </Button>
      </div>
    </Dialog>
  );
}

function stateOf(key: Key): string {
  if (key.revoked_at) return "revoked";
  return key.expires_at && Date.parse(key.expires_at) < Date.now() ? "expired" : "ready";
}

const COLUMNS: Column<Key>[] = [
  { id: "name", label: "Key", cell: (key) => key.name, sort: (key) => key.name },
  { id: "prefix", label: "Begins", cell: (key) => <code>{key.prefix}…</code> },
  { id: "account", label: "Account", cell: (key) => key.account, sort: (key) => key.account },
  { id: "state", label: "State", cell: (key) => <StateMark state={stateOf(key)} />, sort: stateOf },
  { id: "scopes", label: "For", cell: (key) => key.scopes?.join(", ") || "everything" },
  {
    id: "created",
    label: "Created (UTC)",
    num: true,
    cell: (key) => when(key.created_at),
    sort: (key) => key.created_at,
  },
  {
    id: "used",
    label: "Used (UTC)",
    num: true,
    cell: (key) => when(key.used_at),
    sort: (key) => key.used_at,
  },
  { id: "expires", label: "Ends (UTC)", num: true, cell: (key) => when(key.expires_at) },
  {
    id: "do",
    label: "Do",
    cell: (key) =>
      stateOf(key) === "ready" ? (
        <Action
          call="DELETE /api/v1/keys/{key_id}"
          label="Revoke"
          look="bad"
          confirm={{
            title: `Revoke the key ${key.name} of ${key.account}?`,
            text: "Whoever uses it is refused within a second, for ever.",
          }}
          run={() => api.DELETE("/api/v1/keys/{key_id}", { params: { path: { key_id: key.id } } })}
        />
      ) : (
        DASH
      ),
  },
];
