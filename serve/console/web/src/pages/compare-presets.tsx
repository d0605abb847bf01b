/** Presets: a model with a system prompt and parameters under a name that is asked like a model. */
import { useState } from "react";
import { $api, api, type Schemas } from "../api";
import { Action } from "../ui/action";
import { CallForm } from "../ui/call-form";
import { Button, Field, Input, Select } from "../ui/controls";
import { Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";

type Preset = Schemas["Preset"];
type Draft = Schemas["PresetRequest"];

/** `draft` is what the form holds; its model is chosen here among `models`. */
export function Presets({
  models,
  draft,
  take,
}: {
  models: readonly string[];
  draft: Omit<Draft, "model">;
  take: (name: string) => void;
}) {
  const query = $api.useQuery("get", "/api/v1/presets", { params: { query: { limit: 200 } } });
  const columns: Column<Preset>[] = [
    { id: "name", label: "Preset", cell: (preset) => preset.name, sort: (preset) => preset.name },
    { id: "model", label: "Model", cell: (preset) => preset.model, sort: (preset) => preset.model },
    { id: "system", label: "System prompt", cell: (preset) => <span className="wrap">{preset.system}</span> },
    { id: "params", label: "Parameters", cell: (preset) => <code>{JSON.stringify(preset.params)}</code> },
    {
      id: "do",
      label: "Do",
      cell: (preset) => (
        <div className="actions">
          <Button aria-label={`Ask ${preset.name}`} onClick={() => take(preset.name)}>
            Ask
          </Button>
          <Action
            call="DELETE /api/v1/presets/{name}"
            label="Remove"
            look="bad"
            confirm={{
              title: `Remove the preset ${preset.name}?`,
              text: "Whoever asks for it by that name is refused from then on.",
            }}
            run={() => api.DELETE("/api/v1/presets/{name}", { params: { path: { name: preset.name } } })}
          />
        </div>
      ),
    },
  ];
  return (
    <Panel title="Presets">
      <Loaded query={query} what="the presets">
        {(page) => (
          <Table
            caption="Presets"
            columns={columns}
            rows={page.data}
            rowKey={(preset) => preset.name}
            empty={
              <Empty title="No preset yet">
                One is a model with a system prompt and parameters, asked by its own name.
              </Empty>
            }
          />
        )}
      </Loaded>
      <Keep models={models} draft={draft} />
    </Panel>
  );
}

function Keep({ models, draft }: { models: readonly string[]; draft: Omit<Draft, "model"> }) {
  const [name, setName] = useState("");
  const [chosen, choose] = useState("");
  const model = models.includes(chosen) ? chosen : (models[0] ?? "");
  const run = async () => {
    await api.PUT("/api/v1/presets/{name}", { params: { path: { name } }, body: { ...draft, model } });
    setName("");
  };
  return (
    <CallForm
      call="PUT /api/v1/presets/{name}"
      action="Keep"
      look="plain"
      disabled={!name || !model}
      run={run}
    >
      <div className="filters">
        <Field label="Keep the settings above as">
          <Input value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <Field label="Of the model">
          <Select value={model} options={models} onChange={(event) => choose(event.target.value)} />
        </Field>
      </div>
      <p className="small">One of the same name is replaced.</p>
    </CallForm>
  );
}
