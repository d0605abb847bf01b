/** One provider: its keys, which can be written and never read, its tests, and its models with their prices. */
import { useState } from "react";
import { $api, api, type Schemas } from "../../api";
import { DASH, num, usd, when } from "../../fmt";
import { Action } from "../../ui/action";
import { CallForm } from "../../ui/call-form";
import { Facts, Field, Input, Secret } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded, Notice } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useParam } from "../../url";
import { CheckMark } from "./providers";

type Provider = Schemas["Provider"];
type Key = Schemas["ProviderKey"];
type Model = Schemas["ProviderModel"];

export function ProviderDetail({ name }: { name: string }) {
  const query = $api.useQuery("get", "/api/v1/providers/{name}", { params: { path: { name } } });
  return (
    <Panel title={name} actions={query.data && <ProviderActions provider={query.data} />}>
      <Loaded query={query} what={name}>
        {(provider) => (
          <>
            <Facts
              of={[
                ["Address", provider.base_url],
                ["Speaks", provider.wire],
                ["Used", provider.enabled ? "yes" : "no"],
                ["Last test", <CheckMark key="check" check={provider.last_check} />],
              ]}
            />
            {provider.last_check && !provider.last_check.ok && (
              <Notice kind="bad">{provider.last_check.message}</Notice>
            )}
            <Keys provider={provider} />
            <Models name={name} />
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function ProviderActions({ provider }: { provider: Provider }) {
  const [, show] = useParam("shown");
  const path = { params: { path: { name: provider.name } } };
  return (
    <>
      <Action
        call="POST /api/v1/providers/{name}/test"
        label="Test"
        run={() => api.POST("/api/v1/providers/{name}/test", path)}
      />
      <Action
        call="POST /api/v1/providers/{name}/sync"
        label="Read its models"
        run={() => api.POST("/api/v1/providers/{name}/sync", path)}
      />
      <Action
        call="PATCH /api/v1/providers/{name}"
        label={provider.enabled ? "Do not use" : "Use"}
        run={() => api.PATCH("/api/v1/providers/{name}", { ...path, body: { enabled: !provider.enabled } })}
      />
      <Action
        call="DELETE /api/v1/providers/{name}"
        label="Remove"
        look="bad"
        confirm={{
          title: `Remove ${provider.name}?`,
          text: "Its keys, models, tests and prices go with it. It is refused while a route sends requests to it.",
          typed: provider.name,
        }}
        run={async () => {
          await api.DELETE("/api/v1/providers/{name}", path);
          show("");
        }}
      />
    </>
  );
}

function Keys({ provider }: { provider: Provider }) {
  const [key, setKey] = useState("main");
  const [secret, setSecret] = useState("");
  const run = async () => {
    await api.PUT("/api/v1/providers/{name}/keys/{key}", {
      params: { path: { name: provider.name, key } },
      body: { secret },
    });
    setSecret("");
  };
  const columns: Column<Key>[] = [
    ...KEYS,
    { id: "do", label: "Actions", cell: (each) => <KeyActions provider={provider.name} of={each} /> },
  ];
  return (
    <>
      <Table
        caption={`Keys of ${provider.name}, in the order of their use`}
        columns={columns}
        rows={provider.keys}
        rowKey={(each) => each.name}
        empty={<Empty title="It has no key" />}
      />
      <CallForm
        call="PUT /api/v1/providers/{name}/keys/{key}"
        action="Set key"
        disabled={!key || !secret}
        run={run}
      >
        <div className="pair">
          <Field label="Key's name" hint="One that is there gets another secret">
            <Input value={key} onChange={(event) => setKey(event.target.value)} />
          </Field>
          <Secret
            label="Secret"
            hint="Kept sealed, and never shown again"
            value={secret}
            change={setSecret}
          />
        </div>
      </CallForm>
    </>
  );
}

function KeyActions({ provider, of }: { provider: string; of: Key }) {
  const path = { params: { path: { name: provider, key: of.name } } };
  return (
    <div className="actions">
      <Action
        call="PATCH /api/v1/providers/{name}/keys/{key}"
        label={of.enabled ? `Do not use ${of.name}` : `Use ${of.name}`}
        look="quiet"
        run={() =>
          api.PATCH("/api/v1/providers/{name}/keys/{key}", { ...path, body: { enabled: !of.enabled } })
        }
      />
      <Action
        call="DELETE /api/v1/providers/{name}/keys/{key}"
        label={`Remove ${of.name}`}
        look="bad"
        confirm={{
          title: `Remove the key ${of.name} of ${provider}?`,
          text: "The secret is gone from here. Revoke it at the provider too.",
        }}
        run={() => api.DELETE("/api/v1/providers/{name}/keys/{key}", path)}
      />
    </div>
  );
}

function Models({ name }: { name: string }) {
  const query = $api.useQuery("get", "/api/v1/providers/{name}/models", { params: { path: { name } } });
  return (
    <Loaded query={query} what="its models">
      {(page) => (
        <Table
          caption={`Models that ${name} said it has`}
          columns={MODELS}
          rows={page.data}
          rowKey={(each) => each.model}
          empty={<Empty title="Its models were not read yet" />}
        />
      )}
    </Loaded>
  );
}

const KEYS: Column<Key>[] = [
  { id: "name", label: "Key", cell: (each) => each.name },
  { id: "hint", label: "Ends with", cell: (each) => <code>{each.hint}</code> },
  { id: "enabled", label: "Used", cell: (each) => (each.enabled ? "yes" : "‖ no") },
  {
    id: "rotated",
    label: "Secret since (UTC)",
    num: true,
    cell: (each) => when(each.rotated_at ?? each.created_at),
  },
];

const priceOf = (micro: number | undefined) => (micro === undefined ? DASH : usd(micro / 1e6));

const MODELS: Column<Model>[] = [
  { id: "model", label: "Model", cell: (each) => each.model, sort: (each) => each.model },
  { id: "in", label: "In, per 1 M", num: true, cell: (each) => priceOf(each.price?.input_micro_usd) },
  { id: "out", label: "Out, per 1 M", num: true, cell: (each) => priceOf(each.price?.output_micro_usd) },
  { id: "source", label: "Price from", cell: (each) => each.price?.source ?? "none" },
  { id: "most", label: "Longest answer", num: true, cell: (each) => num(each.price?.max_output_tokens) },
  { id: "seen", label: "Seen (UTC)", num: true, cell: (each) => when(each.seen_at) },
];
