/** The form of a route. Conditions and times that it does not show stay as they are. */
import { useState } from "react";
import { $api, api } from "../../api";
import { CallForm, Tick } from "../../ui/call-form";
import { Button, Field, Input, Select } from "../../ui/controls";
import { type Config, configOf, type Form, formOf, NEW_TARGET, type Target } from "./route-form";

const OURS = "raymill";

export function RouteEditor({
  name,
  config,
  saved,
}: {
  name: string;
  config: Config;
  saved: (name: string) => void;
}) {
  const [form, setForm] = useState<Form>(() => formOf(name, config));
  const providers = $api.useQuery("get", "/api/v1/providers", { params: { query: { limit: 200 } } });
  const names = [OURS, ...(providers.data?.data ?? []).map((each) => each.name)];
  const set = (change: Partial<Form>) => setForm((before) => ({ ...before, ...change }));
  const setTarget = (at: number, change: Partial<Target>) =>
    set({ targets: form.targets.map((each, place) => (place === at ? { ...each, ...change } : each)) });
  const run = async () => {
    await api.PUT("/api/v1/routes/{name}", {
      params: { path: { name: form.name } },
      body: { config: configOf(form, config) },
    });
    saved(form.name);
  };
  const ready = form.name !== "" && form.targets.every((each) => each.provider && each.model);
  return (
    <CallForm call="PUT /api/v1/routes/{name}" action="Save the route" disabled={!ready} run={run}>
      {name === "" && (
        <Field label="Name" hint="The model name that is asked for">
          <Input value={form.name} onChange={(event) => set({ name: event.target.value })} />
        </Field>
      )}
      {form.targets.map((target, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: a target is its place while it is written
        <fieldset className="panel" key={at}>
          <legend>Target {at + 1}</legend>
          <div className="pair">
            <Field label="Provider">
              <Select
                value={target.provider}
                options={[
                  ["", "choose"],
                  ...[...new Set([...names, target.provider])]
                    .filter(Boolean)
                    .map((each) => [each, each] as const),
                ]}
                onChange={(event) => setTarget(at, { provider: event.target.value })}
              />
            </Field>
            <Field label="Model" hint={target.provider === OURS ? "MODEL@ALIAS" : undefined}>
              <Input
                value={target.model}
                onChange={(event) => setTarget(at, { model: event.target.value })}
              />
            </Field>
            <Field label="Weight" hint="Share among those of its order">
              <Input
                inputMode="numeric"
                value={target.weight}
                onChange={(event) => setTarget(at, { weight: event.target.value })}
              />
            </Field>
            <Field label="Order" hint="Higher ones are asked when lower ones fail">
              <Input
                inputMode="numeric"
                value={target.order}
                onChange={(event) => setTarget(at, { order: event.target.value })}
              />
            </Field>
          </div>
          {form.targets.length > 1 && (
            <div className="actions">
              <Button onClick={() => set({ targets: form.targets.filter((_, place) => place !== at) })}>
                Leave target {at + 1} out
              </Button>
            </div>
          )}
        </fieldset>
      ))}
      <div className="actions">
        <Button onClick={() => set({ targets: [...form.targets, NEW_TARGET] })}>Another target</Button>
      </div>
      <div className="pair">
        <Field label="Chosen by">
          <Select
            value={form.strategy}
            options={[
              ["weighted", "weight"],
              ["least_latency", "the least latency"],
              ["least_busy", "who is least busy"],
            ]}
            onChange={(event) => set({ strategy: event.target.value })}
          />
        </Field>
        <Field label="Stays with">
          <Select
            value={form.sticky}
            options={[
              ["", "nobody"],
              ["user", "the user"],
              ["conversation", "the conversation"],
            ]}
            onChange={(event) => set({ sticky: event.target.value })}
          />
        </Field>
        <Field label="Tries at a target">
          <Input value={form.attempts} onChange={(event) => set({ attempts: event.target.value })} />
        </Field>
        <Field label="Breaker opens at" hint="Share of failed requests">
          <Input value={form.breakerRate} onChange={(event) => set({ breakerRate: event.target.value })} />
        </Field>
        <Field label="And stays open, s">
          <Input value={form.breakerOpen} onChange={(event) => set({ breakerOpen: event.target.value })} />
        </Field>
        <Field label="Answers kept, s" hint="For requests that are the same; empty: not">
          <Input value={form.cache} onChange={(event) => set({ cache: event.target.value })} />
        </Field>
      </div>
      <Tick
        label="Keep prompts and answers, personal data masked"
        value={form.keepTraces}
        change={(keepTraces) => set({ keepTraces })}
      />
    </CallForm>
  );
}
