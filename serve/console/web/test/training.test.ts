/** The first thing that people come for, from the keyboard: a run is started, and its curve moves. The engine is real. */
import { afterAll, expect, test } from "vitest";
import { EXAMPLES, settled, stage, startBrowser, stranger, WORK_URL } from "./browser";
import { Keyboard } from "./keyboard";

startBrowser();
afterAll(() => stage("rest"));

const ENGINE_MS = 300_000;
const SEEN = 3;

test("a run is started in the form, and its loss is seen to fall while it trains", async () => {
  await stage("begin");
  const tab = await stranger("/new", { url: WORK_URL });
  const hands = await Keyboard.of(tab);
  await hands.signIn("olga");
  await hands.write("Name", "tiny");
  await hands.choose("Begin with", "nothing");
  await hands.write("Text file", EXAMPLES.corpus ?? "");
  await hands.write("Layers", "1");
  await hands.write("Steps", "40");
  await hands.choose("From", "files");
  await hands.write("Training rows", EXAMPLES.rows ?? "");
  await hands.write("Rank", "4");
  await hands.write("Epochs", "1");
  await hands.sees("What it takes, about");
  await hands.tabTo("Start", "button");
  await hands.press("Enter");
  await tab.waitForURL("**/console/runs/*");
  await settled(tab);
  await hands.tabTo("base", "link");
  const train = tab.url();
  await hands.press("Enter");
  await tab.waitForURL((url) => url.href !== train);
  await settled(tab);

  const chart = tab.getByRole("img", { name: /^Loss: / });
  await chart.waitFor({ timeout: ENGINE_MS });
  const seen: [number, number][] = [];
  while (seen.length < SEEN) {
    const before = seen.at(-1)?.[0] ?? 0;
    await tab.waitForFunction(
      (points) =>
        Number(document.querySelector("[aria-label^='Loss: ']")?.getAttribute("data-points")) > points,
      before,
      { timeout: 30_000 },
    );
    const sentence = (await chart.getAttribute("aria-label")) ?? "";
    seen.push([Number(await chart.getAttribute("data-points")), Number(/Loss ([\d.]+)/.exec(sentence)?.[1])]);
  }
  console.log(
    `points on the screen, and the loss of the last: ${seen.map((each) => each.join(" ")).join(", ")}`,
  );
  expect(seen.at(-1)?.[1]).toBeLessThan(seen[0]?.[1] ?? 0);
  expect(tab.faults).toEqual([]);
}, 420_000);
