/** Jobs, runs and the form for a new one, as a person uses them. */
import { expect, test } from "vitest";
import { EXAMPLES, open, settled, stage, startBrowser, visit } from "./browser";

startBrowser();

const ROWS = "[data-rows] > tr";

test("10,000 jobs are filtered and paged, by address, in one call each, without a long task", async () => {
  const tab = await open("/overview");
  await tab.evaluate(() => {
    const kept = globalThis as unknown as { long: number[] };
    kept.long = [];
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) kept.long.push(entry.duration);
    }).observe({ type: "longtask" });
  });
  let calls = 0;
  tab.on("request", (request) => {
    if (request.url().includes("/api/v1/jobs?")) calls += 1;
  });
  await tab.keyboard.press("g");
  await tab.keyboard.press("j");
  await tab.waitForSelector(ROWS);
  await settled(tab);
  expect(await tab.locator("main *").count()).toBeLessThan(1500);
  await tab.keyboard.press("/");
  await tab.keyboard.type("notify-7");
  await tab.waitForURL("**/jobs?name=notify-7");
  await tab.waitForFunction(() =>
    document.querySelector("[data-rows] > tr")?.textContent?.startsWith("notify-7"),
  );
  const first = await tab.locator(ROWS).first().getAttribute("data-key");
  await tab.getByRole("button", { name: "Next" }).click();
  await tab.waitForURL("**page=2**");
  await tab.waitForFunction(
    (key) => document.querySelector("[data-rows] > tr")?.getAttribute("data-key") !== key,
    first,
  );
  await tab.goBack();
  await tab.waitForFunction(
    (key) => document.querySelector("[data-rows] > tr")?.getAttribute("data-key") === key,
    first,
  );
  await tab.getByLabel("State").selectOption("failed");
  await tab.getByText("No job fits these filters").waitFor();
  expect(calls).toBeLessThanOrEqual(6);
  const long = await tab.evaluate(() => (globalThis as unknown as { long: number[] }).long);
  console.log(`long tasks of the jobs page, ms: ${long.map(Math.round).join(" ") || "none"}`);
  expect(tab.faults).toEqual([]);
});

test("j, k and Enter go through the table, and a viewer sees nothing to press", async () => {
  const tab = await open("/jobs?state=queued", { account: "vi" });
  await tab.keyboard.press("j");
  await tab.keyboard.press("j");
  await tab.keyboard.press("k");
  const key = await tab.evaluate(() => document.activeElement?.getAttribute("data-key"));
  expect(key).toBeTruthy();
  await tab.keyboard.press("Enter");
  await tab.waitForURL(`**/${key}`);
  await settled(tab);
  const buttons = await tab.locator("main button").allTextContents();
  expect(buttons.filter((each) => /Cancel|Pause|Retry|Resume/.test(each))).toEqual([]);
});

test("a step of a run is on the screen within a second of its commit", async () => {
  const tab = await open(EXAMPLES["/runs/:id"] ?? "");
  await tab.waitForSelector("[data-live=live]");
  const chart = tab.getByRole("img", { name: /^Loss: / });
  const late: number[] = [];
  for (let step = 0; step < 10; step += 1) {
    const before = Number(await chart.getAttribute("data-points"));
    const { at_ms: at } = await stage("step");
    await tab.waitForFunction(
      (points) =>
        Number(document.querySelector("[aria-label^='Loss: ']")?.getAttribute("data-points")) > points,
      before,
      { polling: 20 },
    );
    late.push(Date.now() - (at ?? 0));
  }
  late.sort((a, b) => a - b);
  console.log(`from commit to screen, ms: ${late.map(Math.round).join(" ")}`);
  expect(late.at(-1)).toBeLessThan(Number(process.env.CONSOLE_LATE_MS ?? 1000));
  await tab.reload();
  await settled(tab);
  expect(Number(await chart.getAttribute("data-points"))).toBeGreaterThanOrEqual(130);
  expect(tab.faults).toEqual([]);
});

test("a job is cancelled by keyboard, after a question, and can be retried then", async () => {
  const tab = await open(EXAMPLES["/jobs/:id"] ?? "", { account: "olga" });
  await tab.getByRole("button", { name: "Cancel", exact: true }).focus();
  await tab.keyboard.press("Enter");
  const dialog = tab.getByRole("dialog");
  await dialog.waitFor();
  await tab.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  expect(await tab.evaluate(() => document.activeElement?.textContent)).toBe("Cancel");
  await tab.keyboard.press("Enter");
  await dialog.getByRole("button", { name: "Cancel", exact: true }).focus();
  await tab.keyboard.press("Enter");
  await tab.getByRole("button", { name: "Retry" }).waitFor();
  expect(await tab.locator(".facts .mark").first().textContent()).toContain("cancelled");
});

test("the form checks while it is typed, names the wrong field, and starts the run once", async () => {
  const tab = await open("/new", { account: "olga" });
  await tab.getByLabel("Name", { exact: true }).fill("from-scratch");
  await tab.getByLabel("Begin with").selectOption("scratch");
  await tab.getByLabel("Text file").fill(EXAMPLES.corpus ?? "");
  await tab.getByLabel("From", { exact: true }).selectOption("file");
  await tab.getByLabel("Training rows").fill(EXAMPLES.rows ?? "");
  await tab.getByText("What it takes, about").waitFor();
  await tab.getByLabel("Width").fill("100");
  await tab.getByText("which 256 does not divide", { exact: false }).first().waitFor();
  await tab.getByLabel("Width").fill("256");
  await tab.getByText("What it takes, about").waitFor();
  expect(await tab.getByLabel("YAML, text").textContent()).toContain("hidden: 256");
  await tab.getByRole("button", { name: "Start" }).dblclick();
  await tab.waitForURL("**/runs/*");
  await settled(tab);
  await visit(tab, "/jobs?name=from-scratch");
  expect(await tab.locator(ROWS).count()).toBe(3);
  expect(tab.faults).toEqual([]);
});

test("two runs are laid over each other", async () => {
  const tab = await open("/jobs?tab=runs");
  await tab.locator(ROWS).nth(0).locator("input").check();
  await tab.locator(ROWS).nth(2).locator("input").check();
  await tab.getByRole("link", { name: "Lay 2 over each other" }).click();
  await tab.waitForURL("**/runs/compare?ids=**");
  await settled(tab);
  await tab.getByRole("heading", { name: "Measured" }).waitFor();
});
