/** Providers: which there are and how they fare, one with its keys and models, a new one from a preset. */
import { useState } from "react";
import { $api, api, type Schemas } from "../../api";
import { DASH, num, when } from "../../fmt";
import { CallForm } from "../../ui/call-form";
import { Field, Input, Secret, Select } from "../../ui/controls";
import { May, Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useCursor, useParam } from "../../url";
import { Breakers } from "./breakers";
import { ProviderDetail } from "./provider";

type Provider = Schemas["Provider"];

export function Providers() {
  const [name] = useParam("shown");
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/providers",
    { params: { query: { limit: 50, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <Loaded query={query} what="the providers" rows={6}>
        {(page) => (
          <Table
            caption="Providers, newest first"
            columns={PROVIDERS}
            rows={page.data}
            rowKey={(each) => each.id}
            href={(each) => `/gateway?tab=providers&shown=${each.name}`}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              <Empty title="No provider yet">
                Without one the gateway answers for the versions that are served here, and for no others.
              </Empty>
            }
          />
        )}
      </Loaded>
      <Breakers />
      {name && <ProviderDetail key={name} name={name} />}
      <May call="POST /api/v1/providers">
        <NewProvider />
      </May>
    </>
  );
}

function NewProvider() {
  const presets = $api.useQuery("get", "/api/v1/provider-presets");
  const [preset, setPreset] = useState("");
  const [name, setName] = useState("");
  const [url, setUrl] = useState("");
  const [secret, setSecret] = useState("");
  const [, show] = useParam("shown");
  const known = presets.data?.data ?? [];
  const chosen = known.find((each) => each.name === preset);
  const run = async () => {
    const { data } = await api.POST("/api/v1/providers", {
      body: { preset, name: name || null, base_url: url || null, settings: {}, enabled: true },
    });
    if (!data) return;
    show(data.name);
    setName("");
    if (secret) {
      await api.PUT("/api/v1/providers/{name}/keys/{key}", {
        params: { path: { name: data.name, key: "main" } },
        body: { secret },
      });
      setSecret("");
    }
  };
  return (
    <Panel title="Add a provider">
      <CallForm call="POST /api/v1/providers" action="Add" disabled={!preset} run={run}>
        <div className="pair">
          <Field label="Preset">
            <Select
              value={preset}
              options={[["", "choose"], ...known.map((each) => each.name)]}
              onChange={(event) => setPreset(event.target.value)}
            />
          </Field>
          <Field label="Name" hint="Empty: the preset's">
            <Input value={name} onChange={(event) => setName(event.target.value)} />
          </Field>
          <Field
            label="Address"
            hint={chosen?.base_url ? `Empty: ${chosen.base_url}` : "Such as https://HOST/v1"}
          >
            <Input value={url} onChange={(event) => setUrl(event.target.value)} />
          </Field>
          <Secret
            label="Key"
            hint="Kept sealed, and never shown again; empty: later"
            value={secret}
            change={setSecret}
          />
        </div>
      </CallForm>
    </Panel>
  );
}

export function CheckMark({ check }: { check: Schemas["ProviderCheck"] | null }) {
  if (!check) return DASH;
  return check.ok ? (
    <span className="mark mark-ok">
      <span aria-hidden="true">✓</span> answered
    </span>
  ) : (
    <span className="mark mark-bad">
      <span aria-hidden="true">✕</span> {check.status ?? "no answer"}
    </span>
  );
}

const PROVIDERS: Column<Provider>[] = [
  { id: "name", label: "Provider", cell: (each) => each.name, sort: (each) => each.name },
  {
    id: "enabled",
    label: "Used",
    cell: (each) => (each.enabled ? "yes" : <span className="mark mark-warn">‖ no</span>),
  },
  { id: "preset", label: "Preset", cell: (each) => each.preset, sort: (each) => each.preset },
  { id: "wire", label: "Speaks", cell: (each) => each.wire },
  { id: "url", label: "Address", cell: (each) => <span className="wrap">{each.base_url}</span> },
  { id: "keys", label: "Keys", num: true, cell: (each) => num(each.keys.length) },
  { id: "models", label: "Models", num: true, cell: (each) => num(each.models) },
  { id: "check", label: "Last test", cell: (each) => <CheckMark check={each.last_check} /> },
  { id: "at", label: "Tested (UTC)", num: true, cell: (each) => when(each.last_check?.at) },
];
