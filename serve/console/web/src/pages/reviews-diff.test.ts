import { expect, test } from "vitest";
import { filesOf } from "./reviews-diff";

test("a diff is read file by file, also where a line of code looks like a file's head", () => {
  const diff = [
    "--- a/app.py",
    "+++ b/app.py",
    "@@ -1,3 +1,3 @@",
    " import os",
    "--- old",
    "+++ new",
    " end",
    "@@ -9 +9,2 @@",
    " x",
    "+y",
    "\\ No newline at end of file",
    "--- a/lib/db.py",
    "+++ b/lib/db.py",
    "@@ -1 +0,0 @@",
    "-gone",
    "",
  ].join("\n");
  expect(filesOf(diff).map(({ name, lines, added, gone }) => [name, lines.length, added, gone])).toEqual([
    ["app.py", 9, 2, 1],
    ["lib/db.py", 2, 0, 1],
  ]);
});
