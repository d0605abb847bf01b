import { expect, test } from "vitest";
import { BLANK, fieldOf, isBegun, recipeOf } from "./new-run-form";

test("the form's two ways make two recipes", () => {
  const tuned = { ...BLANK, model: "triage", base: "/models/small", set: "tickets" };
  expect(isBegun(BLANK)).toBe(false);
  expect(isBegun(tuned)).toBe(true);
  expect(recipeOf(tuned)).toEqual({
    model: "triage",
    base: { path: "/models/small" },
    dataset: { name: "tickets" },
    train: { method: "sft", lora: { r: 16 }, epochs: 3, batch: 16 },
    evaluate: { tasks: ["heldout_exact_match"] },
  });
  const scratch = {
    ...BLANK,
    way: "scratch" as const,
    model: "triage",
    text: "/data/corpus.txt",
    dataKind: "file" as const,
    train: "/data/train.jsonl",
    lora: false,
    rate: "2e-3",
    quantize: ["Q8_0"],
    promote: "staging",
    engine: "llama_cpp" as const,
  };
  expect(recipeOf(scratch)).toEqual({
    model: "triage",
    base: { pretrain: { text: "/data/corpus.txt", hidden: 256, layers: 4, steps: 300 } },
    dataset: { train: "/data/train.jsonl" },
    train: { method: "sft", epochs: 3, batch: 16, learning_rate: 0.002 },
    quantize: ["Q8_0"],
    promote: { to: "staging" },
    serve: { engine: "llama_cpp", quantization: "Q8_0" },
  });
});

test("what the service refuses is told at its field", () => {
  expect(fieldOf("train.epochs")).toBe("epochs");
  expect(fieldOf("base.pretrain.hidden")).toBe("hidden");
  expect(fieldOf("base.path")).toBe("base");
  expect(fieldOf("base.pretrain")).toBe(null); // several of its fields together
  expect(fieldOf("serve.quantization")).toBe("engine");
  expect(fieldOf("tune.trials")).toBe(null);
});
