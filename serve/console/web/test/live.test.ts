/** The stream of changes: how soon an event is on the screen, and what a restart of the service does. */
import { expect, test } from "vitest";
import { EXAMPLES, open, settled, stage, startBrowser, type Tab } from "./browser";

startBrowser();

const SAMPLES = 20;
const WITHIN_MS = Number(process.env.CONSOLE_LATE_MS ?? 1000);
const POINTS = "[aria-label^='Loss: ']";

test("95 of 100 steps of a run, and of jobs that come, are on the screen within a second of their commit", async () => {
  const run = await open(EXAMPLES["/runs/:id"] ?? "");
  await run.waitForSelector("[data-live=live]");
  await run.waitForSelector(POINTS);
  const steps: number[] = [];
  for (let sample = 0; sample < SAMPLES; sample += 1) {
    const before = await pointsOf(run);
    const { at_ms: at } = await stage("step");
    await run.waitForFunction(
      ([chart, points]) => Number(document.querySelector(chart)?.getAttribute("data-points")) > points,
      [POINTS, before] as const,
      { polling: 20 },
    );
    steps.push(Date.now() - at);
  }
  expect(run.faults).toEqual([]);
  await run.close();

  const list = await open("/jobs");
  await list.waitForSelector("[data-live=live]");
  const jobs: number[] = [];
  for (let sample = 0; sample < SAMPLES; sample += 1) {
    const { at_ms: at, name } = await stage("job");
    await list.waitForFunction(
      (wanted) => document.querySelector("[data-rows] > tr")?.textContent?.startsWith(wanted),
      name,
      { polling: 20 },
    );
    jobs.push(Date.now() - at);
  }
  expect(list.faults).toEqual([]);
  const late = { steps: p95(steps, "steps"), jobs: p95(jobs, "jobs") };
  expect(late.steps).toBeLessThan(WITHIN_MS);
  expect(late.jobs).toBeLessThan(WITHIN_MS);
});

test("a page outlives a restart of the service: it says so, is live again, and has missed nothing", async () => {
  const run = await open(EXAMPLES["/runs/:id"] ?? "");
  const list = await open("/jobs");
  await run.waitForSelector("[data-live=live]");
  await list.waitForSelector("[data-live=live]");
  await run.waitForSelector(POINTS);
  const before = await pointsOf(run);
  const back = stage("restart");
  for (const tab of [run, list]) {
    await tab.waitForSelector("[data-live=retrying]", { timeout: 5_000 });
    await tab.getByText("The service does not answer; trying again.").waitFor();
  }
  expect(await list.locator("[data-rows] > tr").count()).toBeGreaterThan(10);
  await stage("step");
  await stage("step");
  const { name } = await stage("job");
  await back;
  const since = Date.now();
  for (const tab of [run, list]) await tab.waitForSelector("[data-live=live]", { timeout: 10_000 });
  await expect.poll(() => pointsOf(run)).toBe(before + 2);
  await list.getByText(name).waitFor();
  console.log(`live again and whole ${Date.now() - since} ms after the service was back`);
  for (const tab of [run, list]) {
    expect(await tab.getByText("The service does not answer").count()).toBe(0);
    expect(tab.faults).toEqual([]);
  }
  // What comes from now on comes by the new stream: once, and at once.
  await stage("step");
  await expect.poll(() => pointsOf(run)).toBe(before + 3);
  await run.reload();
  await settled(run);
  await run.waitForSelector(POINTS);
  expect(await pointsOf(run)).toBe(before + 3);
});

async function pointsOf(tab: Tab): Promise<number> {
  return Number(await tab.locator(POINTS).getAttribute("data-points"));
}

function p95(late: readonly number[], what: string): number {
  const sorted = late.map(Math.round).sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.ceil(sorted.length * share) - 1] ?? Number.NaN;
  console.log(`${what} from commit to screen, ms: p50 ${at(0.5)}, p95 ${at(0.95)} of ${sorted.length}`);
  return at(0.95);
}
