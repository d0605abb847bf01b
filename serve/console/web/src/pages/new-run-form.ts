/** What the form holds, and the recipe that follows from it. What is left as it is stays out of the recipe. */

export type Form = {
  way: "tune" | "scratch";
  model: string;
  baseKind: "path" | "hub";
  base: string;
  text: string;
  hidden: string;
  layers: string;
  pretrainSteps: string;
  dataKind: "set" | "file";
  set: string;
  train: string;
  test: string;
  method: "sft" | "tool" | "dpo" | "kto" | "pretrain";
  lora: boolean;
  rank: string;
  epochs: string;
  batch: string;
  rate: string;
  workers: string;
  zero: string;
  evaluate: boolean;
  quantize: string[];
  promote: string;
  atLeast: string;
  engine: "" | "vllm" | "llama_cpp";
};

export const BLANK: Form = {
  way: "tune",
  model: "",
  baseKind: "path",
  base: "",
  text: "",
  hidden: "256",
  layers: "4",
  pretrainSteps: "300",
  dataKind: "set",
  set: "",
  train: "",
  test: "",
  method: "sft",
  lora: true,
  rank: "16",
  epochs: "3",
  batch: "16",
  rate: "",
  workers: "1",
  zero: "0",
  evaluate: true,
  quantize: [],
  promote: "",
  atLeast: "",
  engine: "",
};

type Json = Record<string, unknown>;

/** Numbers as numbers; what is none stays as it is written, for the service to say what is wrong. */
function number(text: string): number | string {
  return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

/** Whether enough is there to ask the service. */
export function isBegun(form: Form): boolean {
  const base = form.way === "scratch" ? form.text : form.base;
  const data = form.dataKind === "set" ? form.set : form.train;
  return Boolean(form.model && base && data);
}

export function recipeOf(form: Form): Json {
  const comparing = form.method === "dpo" || form.method === "kto";
  const heldOut = form.dataKind === "set" || form.test !== "";
  const measures = form.evaluate && heldOut;
  const recipe: Json = { model: form.model, base: baseOf(form), dataset: dataOf(form) };
  recipe.train = {
    method: form.method,
    ...(form.lora ? { lora: { r: number(form.rank) } } : {}),
    epochs: number(form.epochs),
    batch: number(form.batch),
    ...(form.rate ? { learning_rate: number(form.rate) } : {}),
    ...(form.workers !== "1" ? { workers: number(form.workers) } : {}),
    ...(form.zero !== "0" ? { zero: number(form.zero) } : {}),
  };
  if (measures && !comparing && form.method !== "pretrain")
    recipe.evaluate = { tasks: ["heldout_exact_match"] };
  if (form.quantize.length > 0) recipe.quantize = form.quantize;
  if (form.promote) {
    const gate =
      form.atLeast && recipe.evaluate ? { heldout_exact_match: { at_least: number(form.atLeast) } } : null;
    recipe.promote = { to: form.promote, ...(gate ? { require: gate } : {}) };
    if (form.engine === "vllm") recipe.serve = { engine: "vllm" };
    if (form.engine === "llama_cpp") {
      recipe.serve = { engine: "llama_cpp", quantization: form.quantize[0] ?? "Q8_0" };
    }
  }
  return recipe;
}

function baseOf(form: Form): Json {
  if (form.way === "tune") return { [form.baseKind]: form.base };
  return {
    pretrain: {
      text: form.text,
      hidden: number(form.hidden),
      layers: number(form.layers),
      steps: number(form.pretrainSteps),
    },
  };
}

function dataOf(form: Form): Json {
  if (form.dataKind === "set") return { name: form.set };
  return { train: form.train, ...(form.test ? { test: form.test } : {}) };
}

/** Which field the service means by `param`; null: none of the form's. */
export function fieldOf(param: string | null): keyof Form | null {
  if (!param) return null;
  const known: [string, keyof Form][] = [
    ["model", "model"],
    ["base.pretrain.text", "text"],
    ["base.pretrain.hidden", "hidden"],
    ["base.pretrain.layers", "layers"],
    ["base.pretrain.steps", "pretrainSteps"],
    ["base.path", "base"],
    ["base.hub", "base"],
    ["base.revision", "base"],
    ["dataset.train", "train"],
    ["dataset.test", "test"],
    ["dataset.name", "set"],
    ["train.lora", "rank"],
    ["train.epochs", "epochs"],
    ["train.batch", "batch"],
    ["train.learning_rate", "rate"],
    ["train.workers", "workers"],
    ["train.zero", "zero"],
    ["train.method", "method"],
    ["promote.require", "atLeast"],
    ["promote", "promote"],
    ["serve", "engine"],
  ];
  return known.find(([key]) => param === key || param.startsWith(`${key}.`))?.[1] ?? null;
}
