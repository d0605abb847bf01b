import { expect, test } from "vitest";
import type { Schemas } from "../../api";
import { graphOf, WIDTH } from "./graph";

const LINEAGE = {
  version: {
    llm: "triage",
    number: 3,
    job_id: "run-1",
    artifact_name: "model/triage/1",
    aliases: ["production"],
  },
  dataset: { name: "tickets", number: 2 },
  base: { name: "base/triage/1" },
  quantizations: [{ artifact_name: "gguf/triage/1", file: "model-Q8_0.gguf", type: "Q8_0" }],
  evaluations: [
    { artifact_name: "model/triage/1", task: "exact", score: 0.9, samples: 20 },
    { artifact_name: "base/triage/1", task: "exact", score: 0.1, samples: 20 },
  ],
  promotions: [{ id: "p1", alias: "production", state: "executed" }],
} as unknown as Schemas["Lineage"];

test("goes from data and base by run and version to the alias, without boxes over each other", () => {
  const { boxes, lines } = graphOf(LINEAGE);
  const told = lines.map(({ from, to }) => `${from.kind} to ${to.kind}`);
  expect(told).toEqual([
    "data set to run",
    "base to run",
    "run to version",
    "version to file",
    "version to score",
    "version to promotion",
    "promotion to alias",
  ]);
  expect(new Set(boxes.map((box) => `${box.x} ${box.y}`)).size).toBe(boxes.length);
  for (const { from, to } of lines) expect(to.x).toBeGreaterThan(from.x + WIDTH);
});
