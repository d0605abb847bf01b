/** What holds for each page of the router: no violation, no other host, no error, in light and dark, full and empty. */
import { expect, test } from "vitest";
import { PAGES, ROUTES } from "../src/routes";
import { EMPTY_URL, EXAMPLES, open, settled, startBrowser, stranger, violations, visit } from "./browser";

startBrowser();

function address(path: string): string {
  const found = path.includes(":") ? EXAMPLES[path] : path;
  if (!found) throw new Error(`give ${path} an example in tests/console/seed.py`);
  return found;
}

test.each([false, true])("no page has a fault (dark: %s)", async (dark) => {
  const tab = await open("/overview", { dark });
  const found: string[] = [];
  for (const route of ROUTES) {
    await visit(tab, address(route.path));
    found.push(...(await violations(tab)).map((each) => `${route.path} ${each}`));
  }
  expect(found).toEqual([]);
  expect(tab.faults).toEqual([]);
});

test("no page of an empty service fails, or waits for ever", async () => {
  const tab = await open("/overview", { url: EMPTY_URL });
  for (const page of PAGES) {
    await visit(tab, page.path);
    expect(await tab.locator("[role=alert]").allTextContents(), page.path).toEqual([]);
  }
  expect(tab.faults).toEqual([]);
});

test("a viewer is refused nothing that a page asks for by itself", async () => {
  const tab = await open("/overview", { account: "vi" });
  const refused: string[] = [];
  tab.on("response", (answer) => {
    if (answer.status() === 403) refused.push(answer.url());
  });
  for (const route of ROUTES) await visit(tab, address(route.path));
  expect(refused).toEqual([]);
});

test("every page is narrow enough for a telephone", async () => {
  const tab = await open("/overview", { width: 390 });
  for (const page of PAGES) {
    await visit(tab, page.path);
    const over = await tab.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    expect(over, page.path).toBeLessThanOrEqual(0);
  }
});

test("g and a letter go to a page, ? tells the keys, Esc closes them", async () => {
  const tab = await open("/overview");
  for (const page of PAGES) {
    await tab.keyboard.press("g");
    await tab.keyboard.press(page.letter ?? "");
    await tab.waitForURL(`**/console${page.path}`);
  }
  await settled(tab);
  await tab.keyboard.press("?");
  await tab.getByRole("dialog", { name: "Keys" }).waitFor();
  await tab.keyboard.press("Escape");
  await tab.getByRole("dialog", { name: "Keys" }).waitFor({ state: "detached" });
  await tab.keyboard.press("Control+k");
  await tab.getByRole("combobox", { name: "A page, model or run" }).fill("promo");
  await tab.keyboard.press("Enter");
  await tab.waitForURL("**/console/promotions");
});

test("who is not signed in comes back to the same address after the login", async () => {
  const tab = await stranger("/jobs?state=failed");
  expect(await violations(tab)).toEqual([]);
  await tab.getByLabel("Account").fill("olga");
  await tab.getByLabel("Password").fill("wrong wrong wrong");
  await tab.keyboard.press("Enter");
  await tab.getByRole("alert").waitFor();
  await tab.getByLabel("Password").fill("correct horse battery");
  await tab.keyboard.press("Enter");
  await settled(tab);
  expect(tab.url()).toContain("/console/jobs?state=failed");
  expect(await tab.evaluate(() => [document.cookie, Object.keys(localStorage).join()])).toEqual(["", ""]);
  await tab.getByRole("button", { name: "Sign out" }).click();
  await tab.getByLabel("Account").waitFor();
});
