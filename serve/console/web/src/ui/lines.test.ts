import { expect, test } from "vitest";
import { diffLines } from "./lines";

const shown = (before: string, after: string) =>
  diffLines(before, after)
    .map((line) => line.kind + line.text)
    .join("|");

test("lines that stay, go and come", () => {
  expect(shown("a\nb\nc", "a\nx\nc")).toBe(" a|-b|+x| c");
  expect(shown("a\nb", "a\nb")).toBe(" a| b");
  expect(shown("", "a")).toBe("-|+a");
  expect(shown("a\nb\nc\nd", "b\nc\ne\nd")).toBe("-a| b| c|+e| d");
});

test("both texts can be read out of any difference", () => {
  const letters = "abcab";
  for (let seed = 0; seed < 200; seed += 1) {
    const text = (salt: number) =>
      Array.from({ length: (seed * salt) % 9 }, (_, at) => letters[(at * salt + seed) % 5]).join("\n");
    const [before, after] = [text(7), text(11)];
    const lines = diffLines(before, after);
    const side = (other: string) => lines.filter((line) => line.kind !== other).map((line) => line.text);
    expect(side("+").join("\n")).toBe(before);
    expect(side("-").join("\n")).toBe(after);
  }
});
