/** The pictures of docs/console.md, one for each page (`make console-pictures`). */
import { expect, test } from "vitest";
import { EXAMPLES, open, picture, settled, startBrowser, type Tab, visit } from "./browser";
import { Keyboard } from "./keyboard";

startBrowser();

const ASKED = "lab/small,lab/medium,lab/large";

/** Which address shows the page at its best; the others are their own. */
const SHOWN: Record<string, string> = {
  overview: "/overview",
  jobs: "/jobs?name=support-triage",
  run: EXAMPLES["/runs/:id"] ?? "",
  new: "/new",
  data: "/data",
  registry: EXAMPLES["/registry/:name/:number"] ?? "",
  promotions: EXAMPLES.promotion ?? "",
  evals: "/evals",
  gateway: "/gateway",
  compare: `/compare?models=${ASKED}`,
  reviews: EXAMPLES.review ?? "",
  ops: "/ops",
  people: "/people",
};

const FIRST: Record<string, (tab: Tab, hands: Keyboard) => Promise<void>> = {
  async compare(tab, hands) {
    await hands.write("Prompt", "Where is my parcel?");
    await hands.press("Control+Enter");
    await expect.poll(() => tab.locator(".panels .mark-ok").count(), { timeout: 30_000 }).toBe(3);
    await expect.poll(() => tab.locator(".panels").getByText("$").count(), { timeout: 30_000 }).toBe(3);
  },
  async new(_, hands) {
    await hands.write("Name", "support-triage");
    await hands.choose("Begin with", "nothing");
    await hands.write("Text file", EXAMPLES.corpus ?? "");
    await hands.choose("From", "files");
    await hands.write("Training rows", EXAMPLES.rows ?? "");
    await hands.sees("What it takes, about");
  },
};

test.skipIf(!process.env.CONSOLE_PICTURES)("pictures", async () => {
  const tab = await open("/overview");
  const hands = await Keyboard.of(tab);
  for (const [name, path] of Object.entries(SHOWN)) {
    await visit(tab, path);
    await FIRST[name]?.(tab, hands);
    await settled(tab);
    await tab.evaluate(() => scrollTo(0, 0));
    await picture(tab, name);
  }
});
