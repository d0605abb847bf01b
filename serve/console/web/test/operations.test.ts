/** What was configured while the service ran, and putting it back. */
import { expect, test } from "vitest";
import { open, settled, startBrowser, type Tab, URL_, violations } from "./browser";
import { Keyboard } from "./keyboard";

startBrowser();

const PRESET = `${URL_}/api/v1/presets/tutor`;

async function set(tab: Tab, system: string) {
  const answer = await tab.request.put(PRESET, {
    data: { model: "lab/small", system, params: {} },
    headers: { "x-raymill-console": "1" },
  });
  expect(answer.status(), await answer.text()).toBeLessThan(300);
}

test("a change is read with what was before it, and put back", async () => {
  const tab = await open("/ops");
  const hands = await Keyboard.of(tab);
  await set(tab, "Explain it slowly.");
  await set(tab, "Be quick.");
  await hands.turnTo("Health", "Configuration");
  await hands.choose("What", "preset");
  await settled(tab);
  await hands.tabTo(/preset\/tutor/, "row");
  await hands.press("Enter");
  await hands.sees("Explain it slowly.", ".unfolded");
  expect(await violations(tab)).toEqual([]);
  await hands.tabTo("Put back what was before", "button");
  await hands.press("Enter");
  await hands.sees("Put preset/tutor back?", "dialog");
  await hands.tabTo("Put back what was before", "button");
  await hands.press("Enter");
  const system = async () => ((await (await tab.request.get(PRESET)).json()) as { system: string }).system;
  await expect.poll(system).toBe("Explain it slowly.");
  await expect.poll(() => tab.locator("tbody > tr[data-key]").count()).toBe(3);
  await hands.keptFocus();
  expect(tab.faults).toEqual([]);
});
