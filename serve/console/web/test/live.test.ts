/** The stream of changes: how soon an event is on the screen, and what a restart of the service does. */
import { expect, test } from "vitest";
import { open, stage, startBrowser } from "./browser";

startBrowser();

test("the page says that the service is away, and is live again after its restart", async () => {
  const tab = await open("/jobs");
  await tab.waitForSelector("[data-live=live]");
  const away = stage("restart");
  await tab.waitForSelector("[data-live=retrying]", { timeout: 5_000 });
  expect(await tab.locator("[data-rows] > tr").count()).toBeGreaterThan(10);
  await away;
  await tab.waitForSelector("[data-live=live]", { timeout: 10_000 });
  expect(tab.faults).toEqual([]);
});
