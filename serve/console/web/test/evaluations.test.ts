/** The paired comparison, and the examples behind it. */
import { expect, test } from "vitest";
import { open, startBrowser, type Tab, violations } from "./browser";
import { Keyboard } from "./keyboard";

startBrowser();

const COMPARED = "/evals?tab=compare&a=support-triage@2&b=support-triage@1";
const SAMPLES = "section.panel[aria-label='Examples that changed'] tbody";

async function examples(tab: Tab): Promise<string[]> {
  return tab
    .locator(`${SAMPLES} > tr[data-key]`)
    .evaluateAll((rows) => rows.map((row) => row.children[0]?.textContent ?? ""));
}

test("the examples that changed are read one after another by keyboard, and by page", async () => {
  const tab = await open(COMPARED, { account: "vi" });
  const hands = await Keyboard.of(tab);
  await hands.sees("A is better");
  const all = await examples(tab);
  expect(all).toHaveLength(20);
  const row = await hands.tabTo(/billing/, "row");
  await hands.press("Enter");
  const detail = tab.locator(`${SAMPLES} > tr.unfolded`);
  await detail.waitFor();
  expect(await detail.count()).toBe(1);
  const number = /\d+/.exec(row.name)?.[0];
  expect(await detail.textContent()).toMatch(
    new RegExp(`Parcel ${number} did not come.*Wanted.*A, score [01].*B, score [01]`, "s"),
  );
  await hands.press("j");
  const next = await hands.focused();
  expect(next.role).toBe("row");
  await expect.poll(() => detail.textContent()).toContain(`Parcel ${/\d+/.exec(next.name)?.[0]} did`);
  expect(await violations(tab)).toEqual([]);
  await hands.press("k", "Enter");
  await expect.poll(() => detail.count()).toBe(0);
  await hands.tabTo("Next", "button");
  await hands.press("Enter");
  await expect.poll(async () => (await examples(tab)).length).toBeLessThan(20);
  expect(all).not.toContain((await examples(tab))[0]);
  expect(tab.url()).toContain("page=2");
  expect(tab.faults).toEqual([]);
});

test("only those are shown on which one did better", async () => {
  const tab = await open(`${COMPARED}&better=b`, { dark: true });
  await expect.poll(() => examples(tab).then((found) => found.length)).toBe(4);
  expect(await tab.locator(`${SAMPLES} > tr td:nth-child(2)`).allTextContents()).toEqual(Array(4).fill("B"));
  expect(await violations(tab)).toEqual([]);
  await tab.getByLabel("Who did better").selectOption("neither");
  await tab.getByText("No such example").waitFor();
  expect(tab.url()).toContain("better=neither");
  expect(tab.faults).toEqual([]);
});
