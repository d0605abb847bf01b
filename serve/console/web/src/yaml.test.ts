import { expect, test } from "vitest";
import { yaml } from "./yaml";

test("a recipe as text", () => {
  const recipe = {
    model: "triage",
    base: { path: "/models/base one" },
    train: { learning_rate: 1e-5, lora: { r: 16 }, zero: 0, packing: true },
    evaluate: { tasks: ["heldout_exact_match", { lm_eval: "arc.yaml", limit: 5 }] },
    quantize: ["Q8_0"],
    promote: { to: "no", require: {} },
  };
  expect(yaml(recipe)).toBe(`model: triage
base:
  path: "/models/base one"
train:
  learning_rate: 0.00001
  lora:
    r: 16
  zero: 0
  packing: true
evaluate:
  tasks:
    - heldout_exact_match
    - lm_eval: arc.yaml
      limit: 5
quantize: [Q8_0]
promote:
  to: "no"
  require: {}
`);
  expect(yaml({ lr: 2e-7, off: "off", n: "12", empty: "" })).toBe(
    'lr: 2.0e-7\n"off": "off"\n"n": "12"\nempty: ""\n',
  );
});
