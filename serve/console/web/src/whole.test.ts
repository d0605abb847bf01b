import { expect, test } from "vitest";
import { whole } from "./whole";

test("what is no whole number is told, and never becomes no bound", () => {
  expect([whole(" 8 "), whole("0"), whole("")]).toEqual([8, 0, null]);
  for (const typed of ["ten", "-1", "1.5", "1e3"]) expect(() => whole(typed)).toThrow(typed);
});
