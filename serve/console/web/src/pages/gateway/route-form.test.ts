import { expect, test } from "vitest";
import { chainOf, configOf, formOf } from "./route-form";

const CONFIG = {
  targets: [
    { provider: "openai", model: "gpt-4o", weight: 3, order: 0, when: { tools: true } },
    { provider: "raymill", model: "triage@production", weight: 1, order: 0, when: {} },
    { provider: "anthropic", model: "claude", weight: 1, order: 1, when: {} },
  ],
  strategy: "weighted",
  sticky: null,
  timeouts: { connect_s: 2 },
  retries: { attempts: 2, base_s: 0.1 },
  breaker: { window: 20, error_rate: 0.5, open_s: 10 },
  cache_ttl_s: null,
  keep_traces: true,
};

test("a form that is not touched writes the configuration that it was made of", () => {
  expect(configOf(formOf("chat", CONFIG), CONFIG)).toEqual(CONFIG);
});

test("shares are among the targets of the same order", () => {
  expect(chainOf(CONFIG).map(({ order, share }) => [order, share])).toEqual([
    [0, 0.75],
    [0, 0.25],
    [1, 1],
  ]);
});
