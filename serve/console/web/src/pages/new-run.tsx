/** A form that writes a recipe. The service checks it while it is typed, and tells about what it takes. */
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, type ReactElement, useDeferredValue, useEffect, useRef, useState } from "react";
import { useLocation } from "wouter";
import { ApiError, api, type Schemas } from "../api";
import { bytes, DASH, duration, num, si } from "../fmt";
import { save } from "../save";
import { useMay } from "../session";
import { asError } from "../ui/attempt";
import { Button, Facts, Field, Input, Pre, Select } from "../ui/controls";
import { Refused } from "../ui/dialog";
import { Page, Panel } from "../ui/page";
import { Notice } from "../ui/state";
import { yaml } from "../yaml";
import { addressOf } from "./job-parts";
import { SetChoice, SetPreview } from "./new-run-data";
import { BLANK, type Form, fieldOf, isBegun, recipeOf } from "./new-run-form";

const CHECK_MS = 400;
const TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"];

export default function NewRun() {
  return (
    <Page title="New run" may="POST /api/v1/pipelines">
      <NewRunForm />
    </Page>
  );
}

function NewRunForm() {
  const [form, setForm] = useState<Form>(BLANK);
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const key = useRef(crypto.randomUUID());
  const [, navigate] = useLocation();
  const recipe = recipeOf(form);
  const plan = usePlan(form);
  const wrong = plan.error instanceof ApiError && plan.error.status === 422 ? plan.error : null;
  const at = fieldOf(wrong?.param ?? null);
  const set = (change: Partial<Form>) => {
    key.current = crypto.randomUUID(); // another recipe is another run
    setForm((before) => ({ ...before, ...change }));
  };
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const { data } = await api.POST("/api/v1/pipelines", {
        body: { recipe, dry_run: false },
        params: { header: { "idempotency-key": key.current } },
      });
      const jobs = data?.jobs ?? [];
      const shown = jobs.find((job) => job.step === "train") ?? jobs[0];
      navigate(shown ? addressOf(shown) : "/jobs");
    } catch (refused) {
      setError(asError(refused));
      setBusy(false);
    }
  };
  const field = (name: keyof Form, label: string, hint?: string, control?: ReactElement) => (
    <Field label={label} hint={hint} error={at === name ? wrong?.message : null}>
      {control ?? (
        <Input
          name={name}
          value={String(form[name])}
          onChange={(event) => set({ [name]: event.target.value })}
        />
      )}
    </Field>
  );
  const choice = <K extends keyof Form>(
    name: K,
    options: readonly (readonly [Form[K] & string, string])[],
  ) => (
    <Select
      name={name}
      value={String(form[name])}
      options={options}
      onChange={(event) => set({ [name]: event.target.value } as Partial<Form>)}
    />
  );
  return (
    <form onSubmit={submit} className="split">
      <div className="stack">
        <fieldset className="panel">
          <legend>1 Model</legend>
          {field("model", "Name", "In the registry and in the gateway: lower case, such as support-triage")}
          {field(
            "way",
            "Begin with",
            undefined,
            choice("way", [
              ["tune", "an existing base"],
              ["scratch", "nothing: a small model from text"],
            ]),
          )}
          {form.way === "tune" ? (
            <div className="pair">
              {field(
                "baseKind",
                "Base is",
                undefined,
                choice("baseKind", [
                  ["path", "a folder"],
                  ["hub", "on the hub"],
                ]),
              )}
              {field(
                "base",
                form.baseKind === "path" ? "Folder" : "Repository",
                form.baseKind === "path"
                  ? "On the service's machine, in Hugging Face layout"
                  : "Such as org/name",
              )}
            </div>
          ) : (
            <>
              {field("text", "Text file", "On the service's machine; documents are parted by empty lines")}
              <div className="pair">
                {field("hidden", "Width", "A multiple of 256")}
                {field("layers", "Layers")}
                {field("pretrainSteps", "Steps")}
              </div>
            </>
          )}
        </fieldset>
        <fieldset className="panel">
          <legend>2 Data</legend>
          {field(
            "dataKind",
            "From",
            undefined,
            choice("dataKind", [
              ["set", "a registered data set"],
              ["file", "files on the service's machine"],
            ]),
          )}
          {form.dataKind === "set" ? (
            field(
              "set",
              "Data set",
              undefined,
              <SetChoice value={form.set} change={(next) => set({ set: next })} />,
            )
          ) : (
            <div className="pair">
              {field("train", "Training rows", "jsonl, json, csv, parquet or txt")}
              {field("test", "Held-out rows", "Left out, nothing is measured")}
            </div>
          )}
        </fieldset>
        <fieldset className="panel">
          <legend>3 Training</legend>
          {field(
            "method",
            "Method",
            undefined,
            choice("method", [
              ["sft", "sft: answers to imitate"],
              ["tool", "tool: calls of functions"],
              ["dpo", "dpo: pairs of a better and a worse answer"],
              ["kto", "kto: answers that are good or bad"],
              ["pretrain", "pretrain: text"],
            ]),
          )}
          <label className="inline">
            <input
              type="checkbox"
              checked={form.lora}
              onChange={(event) => set({ lora: event.target.checked })}
            />{" "}
            Adapters (LoRA) instead of all weights
          </label>
          <div className="pair">
            {form.lora && field("rank", "Rank")}
            {field("epochs", "Epochs")}
            {field("batch", "Batch", "Examples in a step")}
            {field("rate", "Learning rate", "Empty: the method's own")}
            {field("workers", "Workers")}
            {field(
              "zero",
              "ZeRO stage",
              undefined,
              choice("zero", [
                ["0", "0: nothing is sharded"],
                ["1", "1: optimiser"],
                ["2", "2: and gradients"],
                ["3", "3: and weights"],
              ]),
            )}
          </div>
        </fieldset>
        <fieldset className="panel">
          <legend>4 And then</legend>
          <label className="inline">
            <input
              type="checkbox"
              checked={form.evaluate}
              onChange={(event) => set({ evaluate: event.target.checked })}
            />{" "}
            Measure it and its base on the held-out rows
          </label>
          <fieldset className="plain actions">
            <legend>Quantize to</legend>
            {TYPES.map((type) => (
              <label className="inline" key={type}>
                <input
                  type="checkbox"
                  checked={form.quantize.includes(type)}
                  onChange={(event) =>
                    set({
                      quantize: event.target.checked
                        ? [...form.quantize, type]
                        : form.quantize.filter((each) => each !== type),
                    })
                  }
                />{" "}
                {type}
              </label>
            ))}
          </fieldset>
          <div className="pair">
            {field("promote", "Promote to", "An alias such as production; empty: not")}
            {form.promote && form.evaluate && field("atLeast", "If the score is at least", "Such as 0.9")}
            {form.promote &&
              field(
                "engine",
                "Serve with",
                undefined,
                choice("engine", [
                  ["", "not"],
                  ["vllm", "vLLM"],
                  ["llama_cpp", "llama.cpp"],
                ]),
              )}
          </div>
        </fieldset>
        {error && <Refused error={error} />}
        <div className="actions">
          <Button type="submit" look="main" disabled={busy || !plan.data || Boolean(plan.error)}>
            Start
          </Button>
        </div>
      </div>
      <div className="stack">
        <Verdict begun={isBegun(form)} wrong={at ? null : plan.error} plan={plan.data} />
        <Panel
          title="Recipe"
          actions={
            <Button
              look="quiet"
              onClick={() => save(`${form.model || "recipe"}.yaml`, yaml(recipe), "application/yaml")}
            >
              Save
            </Button>
          }
        >
          <Pre label="YAML">{yaml(recipe)}</Pre>
          <p className="small">
            The same in a terminal: <code>raymill run {form.model || "recipe"}.yaml</code>
          </p>
        </Panel>
        {form.dataKind === "set" && form.set && <SetPreview name={form.set} />}
      </div>
    </form>
  );
}

/** The service's word on the form, a moment after the last key. */
function usePlan(form: Form) {
  const may = useMay("POST /api/v1/pipelines/plan");
  const [settled, settle] = useState(form);
  useEffect(() => {
    const timer = setTimeout(() => settle(form), CHECK_MS);
    return () => clearTimeout(timer);
  }, [form]);
  const recipe = useDeferredValue(recipeOf(settled));
  return useQuery({
    queryKey: ["post", "/api/v1/pipelines/plan", recipe],
    queryFn: async () =>
      (await api.POST("/api/v1/pipelines/plan", { body: { recipe, dry_run: false } }))
        .data as Schemas["EstimatedPlan"],
    enabled: may && isBegun(settled),
    refetchInterval: false,
    staleTime: 60_000,
  });
}

function Verdict({
  begun,
  wrong,
  plan,
}: {
  begun: boolean;
  wrong: Error | null;
  plan: Schemas["EstimatedPlan"] | undefined;
}) {
  if (!begun) return <Notice>Name, base and data are what it takes at least.</Notice>;
  if (wrong) return <Refused error={wrong} />;
  if (!plan) return <p className="small">Being checked.</p>;
  const { estimate } = plan;
  return (
    <Panel title="What it takes, about">
      <Facts
        of={[
          ["Time", duration(estimate.seconds)],
          [
            estimate.workers > 1 ? `Memory, each of ${estimate.workers} workers` : "Memory",
            bytes(estimate.memory_bytes),
          ],
          ["Parameters", si(estimate.parameters)],
          ["Trained", si(estimate.trained_parameters)],
          ["Rows", num(estimate.rows)],
          ["Steps", num(estimate.steps)],
        ]}
      />
      {estimate.notes.map((note) => (
        <p className="small" key={note}>
          {note}
        </p>
      ))}
      <p className="small">Runs: {plan.steps.map((each) => each.step).join(", ") || DASH}</p>
    </Panel>
  );
}
