/** Another version of a step of code analysis, and trying one on a share of the submissions. */
import { useState } from "react";
import { api, queryClient, type Schemas } from "../api";
import { useMay } from "../session";
import { Action } from "../ui/action";
import { CallForm, Tick } from "../ui/call-form";
import { Button, Field, Input, Select } from "../ui/controls";
import { Confirm } from "../ui/dialog";
import { Panel } from "../ui/page";

type Version = Schemas["CodeStepVersion"];
export type Step = Version["step"];

/** Begins with the settings of the version in use. */
export function StepForm({
  step,
  used,
  close,
}: {
  step: Step;
  used: Version | undefined;
  close: () => void;
}) {
  const config = used?.config ?? {};
  const text = (name: string, usual = "") => String(config[name] ?? usual);
  const [form, setForm] = useState({
    model: text("model"),
    fallback: text("fallback"),
    prompt: text("prompt"),
    most: text("max_tokens", "4096"),
    timeout: text("timeout_s", "120"),
    params: JSON.stringify(config.params ?? {}),
    note: "",
    use: true,
  });
  const set = (change: Partial<typeof form>) => setForm((before) => ({ ...before, ...change }));
  const params = objectOf(form.params);
  const run = async () => {
    await api.PUT("/code/v1/steps/{step}", {
      params: { path: { step } },
      body: {
        model: form.model,
        fallback: form.fallback || null,
        prompt: form.prompt || null,
        params: params ?? {},
        max_tokens: Number(form.most),
        timeout_s: Number(form.timeout),
        note: form.note,
        use: form.use,
      },
    });
    close();
  };
  return (
    <Panel title={`New version of ${step}`}>
      <CallForm
        call="PUT /code/v1/steps/{step}"
        action="Make it"
        disabled={!form.model || !params}
        run={run}
        more={<Button onClick={close}>Leave it</Button>}
      >
        <div className="pair">
          <Field label="Model" hint="Any name that the gateway answers for">
            <Input value={form.model} onChange={(event) => set({ model: event.target.value })} />
          </Field>
          <Field label="Fallback" hint="Asked when the model is away or of no use">
            <Input value={form.fallback} onChange={(event) => set({ fallback: event.target.value })} />
          </Field>
          <Field label="Longest answer" hint="In tokens">
            <Input value={form.most} onChange={(event) => set({ most: event.target.value })} />
          </Field>
          <Field label="Seconds" hint="Until an answer is given up">
            <Input value={form.timeout} onChange={(event) => set({ timeout: event.target.value })} />
          </Field>
        </div>
        <Field label="Prompt" hint="Stands before our own words on data and form. Empty: the step's own">
          <textarea
            className="input"
            value={form.prompt}
            onChange={(event) => set({ prompt: event.target.value })}
          />
        </Field>
        <div className="pair">
          <Field
            label="Parameters"
            hint="As JSON"
            error={params ? null : 'an object, such as {"temperature": 0}'}
          >
            <Input value={form.params} onChange={(event) => set({ params: event.target.value })} />
          </Field>
          <Field label="Note" hint="Why it is made">
            <Input value={form.note} onChange={(event) => set({ note: event.target.value })} />
          </Field>
        </div>
        <Tick
          label="Use it from now on; without, it is kept to be tried first"
          value={form.use}
          change={(use) => set({ use })}
        />
      </CallForm>
    </Panel>
  );
}

function objectOf(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text || "{}");
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    return null;
  }
}

/** Begins a trial, or ends the one that goes on. */
export function Canary({ step, versions }: { step: Step; versions: readonly Version[] }) {
  const may = useMay("PUT /code/v1/steps/{step}/canary");
  const others = versions.filter((each) => !each.active);
  const tried = versions.find((each) => each.canary_share > 0);
  const [asking, ask] = useState(false);
  const [chosen, choose] = useState("");
  const [share, setShare] = useState("10");
  const version = Number(chosen || others[0]?.version);
  const path = { params: { path: { step } } };
  const begin = async () => {
    await api.PUT("/code/v1/steps/{step}/canary", { ...path, body: { version, share: Number(share) / 100 } });
    await queryClient.invalidateQueries();
  };
  if (tried) {
    return (
      <Action
        call="PUT /code/v1/steps/{step}/canary"
        label={`End the trial of version ${tried.version}`}
        run={() => api.PUT("/code/v1/steps/{step}/canary", { ...path, body: { version: null, share: 0 } })}
      />
    );
  }
  if (!may || others.length === 0) return null;
  return (
    <>
      <Button onClick={() => ask(true)}>Try a version</Button>
      {asking && (
        <Confirm title={`Try a version of ${step}`} action="Try it" run={begin} close={() => ask(false)}>
          <Field label="Version">
            <Select
              value={String(version)}
              options={others.map((each) => String(each.version))}
              onChange={(event) => choose(event.target.value)}
            />
          </Field>
          <Field label="Per cent of the submissions" hint="Always the same ones">
            <Input value={share} onChange={(event) => setShare(event.target.value)} />
          </Field>
        </Confirm>
      )}
    </>
  );
}
