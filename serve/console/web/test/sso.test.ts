/** Signing in at an identity provider, which is another host. */
import { expect, test } from "vitest";
import { SSO_URL, settled, startBrowser, stranger, violations } from "./browser";
import { Keyboard } from "./keyboard";

startBrowser();

const WITH = `Sign in with ${new URL(SSO_URL).host}`;

test("who signs in at the identity provider comes to the page that was asked for, and signs out", async () => {
  const tab = await stranger("/jobs?state=failed");
  const went: string[] = [];
  tab.on("request", (request) => {
    if (request.url().startsWith(SSO_URL)) went.push(request.url());
  });
  const hands = await Keyboard.of(tab);
  await hands.tabTo(WITH, "button");
  expect(await violations(tab)).toEqual([]);
  await hands.press("Enter");
  await hands.sees("olga", ".who");
  await settled(tab);
  expect(tab.url()).toContain("/console/jobs?state=failed");
  expect(went).toHaveLength(1);
  const kept = () =>
    tab.evaluate(() => [
      document.cookie,
      Object.keys(localStorage).join(),
      Object.keys(sessionStorage).join(),
    ]);
  expect(await kept()).toEqual(["", "", ""]);
  const cookies = await tab.context().cookies();
  expect(cookies.map(({ name, httpOnly, sameSite }) => [name, httpOnly, sameSite])).toEqual([
    ["raymill_session", true, "Strict"],
  ]);
  await tab.reload();
  await settled(tab);
  expect(tab.url()).toContain("/console/jobs?state=failed");
  await tab.getByRole("button", { name: "Sign out" }).click();
  await tab.getByRole("button", { name: WITH }).waitFor();
  expect(await tab.context().cookies()).toEqual([]);
  expect(tab.faults).toEqual([]);
});

test("what the provider refuses, and a login that another browser began, open nothing", async () => {
  const tab = await stranger("/signed-in?error=access_denied&state=x");
  await tab.getByText("The identity provider let nobody in: access_denied.").waitFor();
  expect(await violations(tab)).toEqual([]);
  await tab.goto("/console/signed-in?code=of-somebody&state=else");
  await tab.getByText("this login was not begun in this browser").waitFor();
  await tab.getByRole("button", { name: "Back" }).click();
  await tab.getByLabel("Account").waitFor();
  expect(new URL(tab.url()).pathname).toBe("/console/overview");
  expect(tab.faults).toEqual([]);
});
