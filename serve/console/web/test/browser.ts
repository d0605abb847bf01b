/**
 * A real browser for the tests, against the service of `tests/console/stage.py`. A page that asks another host, breaks
 * the content security policy or writes an error to the console fails its test.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, expect } from "vitest";

const ask = (name: string): string => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run these tests with \`make test-console\``);
  return value;
};
export const URL_ = ask("CONSOLE_URL");
export const EMPTY_URL = ask("CONSOLE_EMPTY_URL");
export const WORK_URL = ask("CONSOLE_WORK_URL");
export const STAGE_URL = ask("CONSOLE_STAGE_URL");
/** The identity provider, the one other host to which a tab may go, and only to sign in. */
export const SSO_URL = ask("CONSOLE_SSO_URL");
export const EXAMPLES = JSON.parse(ask("CONSOLE_EXAMPLES")) as Record<string, string>;
export const PASSWORD = "correct horse battery";
export type Account = "ada" | "ann" | "olga" | "vi";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let browser: Browser;
const opened: BrowserContext[] = [];

/** Call it once in a test file. */
export function startBrowser() {
  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath: process.env.CONSOLE_CHROMIUM ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"],
    });
  });
  afterAll(async () => {
    await Promise.all(opened.map((each) => each.close()));
    await browser.close();
  });
}

export type Tab = Page & {
  /** What went wrong in it so far: other hosts, policy violations, errors. */
  faults: string[];
};

type Options = { account?: Account; url?: string; dark?: boolean; width?: number };

/** A tab of somebody who is signed in, at `path` below `/console`. */
export async function open(path: string, options: Options = {}): Promise<Tab> {
  const { account = "ada", url = URL_, dark = false, width = 1440 } = options;
  const context = await browser.newContext({
    baseURL: url,
    viewport: { width, height: 900 },
    colorScheme: dark ? "dark" : "light",
    reducedMotion: "reduce",
  });
  opened.push(context);
  const answer = await context.request.post(`${url}/api/v1/browser/session`, {
    data: { account, password: PASSWORD },
    headers: { "x-raymill-console": "1" },
  });
  expect(answer.status(), await answer.text()).toBe(201);
  const tab = watched(await context.newPage(), url);
  await visit(tab, path);
  return tab;
}

/** A tab of somebody who is not signed in. */
export async function stranger(path: string, { url = URL_ }: { url?: string } = {}): Promise<Tab> {
  const context = await browser.newContext({ baseURL: url, viewport: { width: 1440, height: 900 } });
  opened.push(context);
  const tab = watched(await context.newPage(), url);
  await tab.goto(`/console${path}`);
  await tab.waitForSelector("main h1");
  return tab;
}

function watched(page: Page, url: string): Tab {
  const faults: string[] = [];
  page.on("request", (request) => {
    const signsIn = request.isNavigationRequest() && request.url().startsWith(`${SSO_URL}/authorize?`);
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(url) && !signsIn)
      faults.push(`asks ${request.url()}`);
  });
  page.on("console", (message) => {
    // What the service refused is the page's to show; that the browser logs it as well cannot be turned off.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource"))
      faults.push(message.text());
  });
  page.on("pageerror", (error) => faults.push(String(error)));
  return Object.assign(page, { faults });
}

export async function visit(tab: Tab, path: string) {
  await tab.goto(`/console${path}`);
  await settled(tab);
}

/** The page stands: it has its title, and waits for nothing. */
export async function settled(tab: Tab) {
  await tab.waitForSelector("main h1");
  await tab.waitForFunction(() => !document.querySelector(".waiting, [aria-busy]"));
}

type TraceEvent = {
  name: string;
  pid: number;
  tid: number;
  dur?: number;
  tdur?: number;
  args: { name?: string };
};

/**
 * The longest task of a page's main thread while `work` goes on, in milliseconds: by the clock, and by the thread's
 * processor time, which leaves out what other programs had of the processor meanwhile.
 */
export async function longestTask(
  tab: Tab,
  work: () => Promise<void>,
): Promise<{ clock: number; processor: number }> {
  await browser.startTracing(tab, { categories: ["toplevel"] });
  await work();
  const trace = (await browser.stopTracing()).toString();
  const { traceEvents: events } = JSON.parse(trace) as { traceEvents: TraceEvent[] };
  const mains = new Set(
    events
      .filter((each) => each.name === "thread_name" && each.args.name === "CrRendererMain")
      .map((each) => `${each.pid} ${each.tid}`),
  );
  // One that is under way when the trace ends has no length in it.
  const tasks = events.filter(
    (each) =>
      each.name === "ThreadControllerImpl::RunTask" &&
      mains.has(`${each.pid} ${each.tid}`) &&
      each.dur !== undefined &&
      each.tdur !== undefined,
  );
  expect(tasks.length, "tasks in the trace").toBeGreaterThan(100);
  const most = (of: (task: TraceEvent) => number | undefined) =>
    Math.round(Math.max(...tasks.map((task) => of(task) ?? Number.NaN)) / 1000);
  return { clock: most((task) => task.dur), processor: most((task) => task.tdur) };
}

const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/** What axe-core finds, one line for each rule. */
export async function violations(tab: Tab): Promise<string[]> {
  await tab.evaluate(AXE);
  return tab.evaluate(async (tags) => {
    type Result = { violations: { id: string; impact: string; nodes: { html: string }[] }[] };
    const axe = (globalThis as unknown as { axe: { run: (options: object) => Promise<Result> } }).axe;
    const found = await axe.run({ runOnly: { type: "tag", values: tags } });
    return found.violations.map((each) => `${each.impact} ${each.id}: ${each.nodes[0]?.html.slice(0, 160)}`);
  }, TAGS);
}

/** A picture for docs/console.md, where CONSOLE_PICTURES names a folder. */
export async function picture(tab: Tab, name: string) {
  const folder = process.env.CONSOLE_PICTURES;
  if (!folder) return;
  await tab.screenshot({ path: `${folder}/${name}.png` });
}

/** Asks the stage for something: `step`, `job`, `restart`, `begin`, `rest`. */
export async function stage(what: string): Promise<{ at_ms: number; name: string; step: number }> {
  const answer = await fetch(`${STAGE_URL}/${what}`, { method: "POST" });
  return (await answer.json()) as { at_ms: number; name: string; step: number };
}
