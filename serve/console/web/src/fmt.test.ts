import { expect, test } from "vitest";
import { bytes, duration, percent, si, sig, usd, when } from "./fmt";

test("numbers, sizes, durations and times as text", () => {
  expect([sig(0.61318), sig(1240), si(12_340), si(4_500_000), bytes(1536)]).toEqual([
    "0.6132",
    "1,240",
    "12.3 k",
    "4.5 M",
    "1.5 KiB",
  ]);
  expect([duration(4.25), duration(68), duration(44 * 60), duration(12_000), duration(187_200)]).toEqual([
    "4.3 s",
    "68 s",
    "44 min",
    "3 h 20 min",
    "2 d 4 h",
  ]);
  expect([usd("0.012345"), percent(0.712), when("2026-03-31T10:00:59+02:00")]).toEqual([
    "$0.01235",
    "71.2 %",
    "2026-03-31 08:00",
  ]);
  expect([sig(null), bytes(undefined), when(null)]).toEqual(["–", "–", "–"]);
});
