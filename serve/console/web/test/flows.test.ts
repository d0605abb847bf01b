/** What people do, from the keyboard alone: approving, adding a provider, asking models, redriving, reading the log. */
import { expect, test } from "vitest";
import { EXAMPLES, settled, startBrowser, stranger, type Tab } from "./browser";
import { Keyboard } from "./keyboard";

startBrowser();

const MODELS = ["lab/small", "lab/medium", "lab/large"];
const QUESTION = "Where is my parcel?";

test("a promotion is approved, and the log tells who did", async () => {
  const tab = await stranger("/overview");
  const hands = await Keyboard.of(tab);
  await hands.signIn("ann");
  await hands.press("Tab");
  expect(await hands.focused()).toEqual({ role: "button", name: "To the content" });
  await hands.press("Enter");
  expect(await tab.evaluate(() => document.activeElement?.id)).toBe("main");
  expect(new URL(tab.url()).pathname).toBe("/console/overview");
  await hands.go("p", "/promotions");
  await hands.tabTo(/support-triage 2.*pending/, "row");
  await hands.press("Enter");
  await tab.waitForURL("**/promotions?id=*");
  await settled(tab);
  await hands.tabTo("Approve", "button");
  await hands.press("Enter");
  await hands.sees("Approve support-triage 2 for production?", "dialog");
  await hands.tabTo("Approve", "button");
  await hands.press("Enter");
  await tab.locator(".facts .mark", { hasText: /decided|executed/ }).waitFor();
  await hands.sees(/ann \(approver\)/);
  await hands.keptFocus();
  await hands.go("r", "/registry");
  await hands.tabTo(/^support-triage/, "row");
  await hands.press("Enter");
  await tab.waitForURL("**/registry/support-triage");
  await hands.sees("production");
  await hands.readsInAudit("ann", "promotion.approve", /promotion\//);
  expect(tab.faults).toEqual([]);
});

test("a provider is added, tested, and talked to", async () => {
  const tab = await stranger("/gateway");
  const hands = await Keyboard.of(tab);
  await hands.signIn("ada");
  await hands.turnTo("Usage and cost", "Providers");
  await hands.choose("Preset", "vllm");
  await hands.write("Name", "house");
  await hands.write("Address", EXAMPLES.provider ?? "");
  await hands.tabTo("Add", "button");
  await hands.press("Enter");
  const panel = "section[aria-label=house]";
  await hands.sees("Its models were not read yet", panel);
  await hands.keptFocus();
  await hands.press("g", "o"); // as nothing is written in, keys of the page work again
  await tab.waitForURL("**/overview");
  await tab.goBack();
  await hands.sees("Its models were not read yet", panel);
  await hands.tabTo("Test", "button");
  await hands.press("Enter");
  await hands.sees("answered", panel);
  await hands.keptFocus();
  await hands.tabTo("Read its models", "button");
  await hands.press("Enter");
  await hands.sees("medium", panel);
  await hands.keptFocus();

  await hands.go("c", "/compare");
  await ask(hands, ["house/small"]);
  await answered(tab, 1);
  expect(await answers(tab)).toEqual([expect.stringMatching(/^The parcel is late .* told the carrier\./)]);
  await hands.tabTo("Go on with this", "button");
  await hands.press("Enter");
  await hands.sees(/assistant: The parcel is late/);
  expect((await hands.focused()).name.toLowerCase()).toBe("prompt");
  await hands.type("And when does it come?");
  await hands.press("Control+Enter");
  await answered(tab, 1);
  await hands.readsInAudit("ada", "provider.add", /provider\/house/);
  expect(tab.faults).toEqual([]);
});

test("three models are asked at once, and their answers come side by side", async () => {
  const tab = await stranger("/compare");
  const hands = await Keyboard.of(tab);
  await hands.signIn("olga");
  await ask(hands, MODELS);
  const early = await tab.waitForFunction((count) => {
    const texts = [...document.querySelectorAll("[aria-label^='Answer of']")].map((each) => each.textContent);
    const running = document.querySelectorAll(".panels .mark-run").length;
    const begun = texts.filter((text) => text && text !== "…");
    return begun.length === count && running === count ? begun : null;
  }, MODELS.length);
  const begun = (await early.jsonValue()) as string[];
  await answered(tab, MODELS.length);
  const whole = await answers(tab);
  expect(new Set(whole).size).toBe(MODELS.length);
  whole.forEach((text, at) => {
    expect(text.startsWith(begun[at]?.trim() ?? "?")).toBe(true);
    expect(text.length).toBeGreaterThan(begun[at]?.length ?? 0);
  });
  const boxes = await tab.locator("[aria-label^='Answer of']").evaluateAll((all) =>
    all.map((each) => {
      const { left, top } = each.closest("section.panel")?.getBoundingClientRect() ?? { left: 0, top: 0 };
      return { left, top };
    }),
  );
  expect(new Set(boxes.map((box) => box.top)).size).toBe(1);
  expect(new Set(boxes.map((box) => box.left)).size).toBe(MODELS.length);
  await hands.sees("$", ".panels"); // the cost is the gateway's own record, a moment later
  await hands.tabTo("Good", "button");
  await hands.press("Enter");
  await expect.poll(() => tab.evaluate(() => document.activeElement?.ariaPressed)).toBe("true");
  expect(tab.faults).toEqual([]);
});

test("a dead letter is read and redriven, and the log tells who did", async () => {
  const tab = await stranger("/ops");
  const hands = await Keyboard.of(tab);
  await hands.signIn("ada");
  await hands.turnTo("Health", "Dead letters");
  const letter = await hands.tabTo(new RegExp(EXAMPLES.lost ?? "?"), "row");
  expect(letter.name).toContain(EXAMPLES.why);
  await hands.press("Enter");
  await tab.waitForURL("**/jobs/*");
  await settled(tab);
  await hands.sees(EXAMPLES.why ?? "?", "[role=alert]");
  const job = tab.url();
  await hands.go("x", "/ops");
  await hands.turnTo("Health", "Dead letters");
  await hands.tabTo("Redrive", "button");
  await hands.press("Enter");
  await hands.sees("No job is dead");
  await hands.keptFocus();
  await hands.readsInAudit("ada", "job.redrive", new RegExp(job.split("/").at(-1) ?? "?"));
  await tab.goto(job);
  await tab.locator(".facts .mark", { hasText: "queued" }).waitFor();
  expect(tab.faults).toEqual([]);
});

async function ask(hands: Keyboard, models: readonly string[]) {
  await hands.tabTo("Model", "combobox");
  for (const model of models) {
    await hands.type(model);
    await hands.press("Enter");
  }
  await hands.write("Prompt", QUESTION);
  await hands.press("Control+Enter");
}

async function answered(tab: Tab, count: number) {
  await expect
    .poll(() => tab.locator(".panels .mark-ok").count(), { timeout: 30_000, interval: 100 })
    .toBe(count);
}

async function answers(tab: Tab): Promise<string[]> {
  const all = await tab.locator("[aria-label^='Answer of']").allTextContents();
  return all.map((each) => each.trim());
}
