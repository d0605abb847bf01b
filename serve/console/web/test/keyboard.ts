/**
 * A person without a mouse, who hears what a screen reader says: keys are pressed, and the focused element is known by
 * its role and accessible name (as Chromium computes them) alone. Nothing here clicks, or fills by a selector.
 */
import type { CDPSession } from "playwright-core";
import { expect } from "vitest";
import { PASSWORD, settled, type Tab } from "./browser";

type Focused = { role: string; name: string };
type Name = string | RegExp;
const MOST_TABS = 150;

export class Keyboard {
  private constructor(
    readonly tab: Tab,
    private readonly session: CDPSession,
  ) {}

  static async of(tab: Tab): Promise<Keyboard> {
    return new Keyboard(tab, await tab.context().newCDPSession(tab));
  }

  /** At the login. */
  async signIn(account: string) {
    await this.write("Account", account);
    await this.write("Password", PASSWORD);
    await this.press("Enter");
    await this.tab.waitForSelector("nav");
    await settled(this.tab);
  }

  async press(...keys: string[]) {
    for (const key of keys) await this.tab.keyboard.press(key);
  }

  /** Into the field of that name. */
  async write(name: Name, text: string) {
    await this.tabTo(name, "textbox");
    await this.type(text);
  }

  /** Into the field that has the focus, instead of what it holds. */
  async type(text: string) {
    await this.press("Control+a", "Delete");
    await this.tab.keyboard.type(text);
  }

  /** `g` and a page's letter, once no field takes them. */
  async go(letter: string, path: string) {
    while (["textbox", "combobox"].includes((await this.focused()).role)) await this.press("Tab");
    await this.press("g", letter);
    await this.tab.waitForURL(`**/console${path}**`);
    await settled(this.tab);
  }

  async focused(): Promise<Focused> {
    const { result } = await this.session.send("Runtime.evaluate", { expression: "document.activeElement" });
    const { nodes } = await this.session.send("Accessibility.getPartialAXTree", {
      objectId: result.objectId,
      fetchRelatives: false,
    });
    const said = (value: unknown) => String(value ?? "").trim();
    const role = said(nodes[0]?.role?.value);
    return { role, name: role === "row" ? await this.cells() : said(nodes[0]?.name?.value) };
  }

  /** What is read of a row: its cells. */
  private async cells(): Promise<string> {
    return this.tab.evaluate(() =>
      [...(document.activeElement?.children ?? [])].map((cell) => cell.textContent?.trim()).join(" "),
    );
  }

  /** Tab until what has the focus is called so; it is on the screen and seen to be focused then. */
  async tabTo(name: Name, role?: string): Promise<Focused> {
    const passed: string[] = [];
    for (let tabs = 0; tabs < MOST_TABS; tabs += 1) {
      const at = await this.focused();
      if (fits(at.name, name) && (role === undefined || at.role === role)) {
        await this.seen(at);
        return at;
      }
      passed.push(`${at.role} ${JSON.stringify(at.name.slice(0, 60))}`);
      await this.press("Tab");
    }
    throw new Error(
      `Tab comes to no ${role ?? "element"} ${name}, but to ${[...new Set(passed)].join(", ")}`,
    );
  }

  /** The option of a list whose text begins so, by typing that. */
  async choose(name: Name, option: string) {
    await this.tabTo(name, "combobox");
    await this.tab.keyboard.type(option);
    const chosen = () =>
      this.tab.evaluate(() => {
        const list = document.activeElement;
        return list instanceof HTMLSelectElement ? list.selectedOptions[0]?.text : "no list";
      });
    await expect.poll(chosen).toContain(option);
  }

  /** From one tab of a list of tabs to another. */
  async turnTo(from: string, to: string) {
    await this.tabTo(from, "tab");
    for (let moves = 0; (await this.focused()).name !== to; moves += 1) {
      expect(moves, `no tab ${to}`).toBeLessThan(12);
      await this.press("ArrowRight");
    }
    await settled(this.tab);
  }

  /** After something was done: the next key goes to what is there, not to the page as a whole. */
  async keptFocus() {
    const at = () => this.tab.evaluate(() => document.activeElement?.tagName ?? "BODY");
    await expect.poll(at, { message: "the focus is lost" }).not.toBe("BODY");
  }

  async sees(text: Name, within?: string) {
    await (within ? this.tab.locator(within) : this.tab).getByText(text).first().waitFor();
  }

  /** The row of the audit log that tells of it is read: who, what, to what. */
  async readsInAudit(account: string, action: string, object: RegExp) {
    await this.go("x", "/ops");
    await this.turnTo("Health", "Audit log");
    await this.tab.waitForSelector("[data-rows] > tr");
    await this.press("j");
    for (let rows = 0; ; rows += 1) {
      const { name } = await this.focused();
      if (name.includes(account) && name.includes(action) && object.test(name)) break;
      expect(rows, `no row ${account} ${action} ${object}`).toBeLessThan(49);
      await this.press("j");
    }
    await this.press("Enter");
    const panel = this.tab.locator("section.panel[aria-label^='Row ']");
    await panel.waitFor();
    expect(await panel.locator("dl").textContent()).toMatch(new RegExp(`Who${account}Action${action}`));
  }

  private async seen(at: Focused) {
    const told = await this.tab.evaluate(() => {
      const focused = document.activeElement;
      if (!focused) return null;
      const style = getComputedStyle(focused);
      const box = focused.getBoundingClientRect();
      return {
        outline: style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) >= 2,
        onScreen: box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth,
      };
    });
    expect(told, `${at.role} ${at.name}`).toEqual({ outline: true, onScreen: true });
  }
}

function fits(name: string, wanted: Name): boolean {
  return typeof wanted === "string" ? name.toLowerCase() === wanted.toLowerCase() : wanted.test(name);
}
