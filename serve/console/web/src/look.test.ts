/** The look's promises that can be counted: contrast of the colours (WCAG 2.2), and one letter for one page. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { PAGES } from "./routes";

const css = readFileSync("src/styles.css", "utf8");
const tokens = (from: string) => {
  const block = css.slice(css.indexOf(from), css.indexOf("}", css.indexOf(from)));
  return Object.fromEntries(
    [...block.matchAll(/--([\w-]+): (#[0-9a-f]{6})/g)].map(([, name, hex]) => [name, hex]),
  );
};

function luminance(hex: string): number {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * (r ?? 0) + 0.7152 * (g ?? 0) + 0.0722 * (b ?? 0);
}

function contrast(one = "", other = ""): number {
  const [low = 0, high = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

test.each([":root {", ':root[data-theme="dark"] {'])("text can be read and curves be seen: %s", (from) => {
  const t = tokens(from);
  for (const name of ["ink", "ink-2", "run", "ok", "warn", "bad", "idle", "accent"]) {
    for (const ground of ["bg", "bg-2"])
      expect(contrast(t[name], t[ground]), `${name} on ${ground}`).toBeGreaterThan(4.5);
  }
  for (const kind of ["run", "ok", "warn", "bad"])
    expect(contrast(t[kind], t[`${kind}-2`])).toBeGreaterThan(4.5);
  expect(contrast(t["on-accent"], t.accent)).toBeGreaterThan(4.5);
  for (const name of ["edge", "c1", "c2", "c3", "c4", "c5", "c6"])
    expect(contrast(t[name], t.bg), name).toBeGreaterThan(3);
});

test("no two pages have the same letter", () => {
  const letters = PAGES.map((page) => page.letter);
  expect(new Set(letters).size).toBe(PAGES.length);
});
