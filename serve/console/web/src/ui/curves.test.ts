import { expect, test } from "vitest";
import { csv } from "./chart";
import { aligned, smoothed } from "./curves";

test("curves of different steps share one x", () => {
  expect(
    aligned([
      { x: [1, 3], y: [5, 7] },
      { x: [2, 3], y: [1, null] },
    ]),
  ).toEqual([
    [1, 2, 3],
    [5, null, 7],
    [null, 1, null],
  ]);
});

test("a constant stays what it is, however it is smoothed and sampled", () => {
  expect(
    smoothed([1, 2, 10, 11], [4, 4, 4, 4], 0.9).map((value) => Math.round((value ?? 0) * 1e9) / 1e9),
  ).toEqual([4, 4, 4, 4]);
  expect(smoothed([1, 2], [null, 3], 0.5)).toEqual([null, 3]);
});

test("a table in CSV quotes its names", () => {
  expect(csv("step", [{ label: 'loss "a"', x: [1, 2], y: [0.5, null] }])).toBe(
    '"step","loss ""a"""\n1,0.5\n2,\n',
  );
});
