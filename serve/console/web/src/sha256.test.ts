import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { Sha256 } from "./sha256";

test.each([0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 100_003])("is Node's, of %i bytes in pieces", (size) => {
  const bytes = Uint8Array.from({ length: size }, (_, at) => (at * 131 + (at >> 7)) % 256);
  const made = new Sha256();
  for (let at = 0; at < size; at += 37) made.update(bytes.subarray(at, at + 37));
  expect(made.hex()).toBe(createHash("sha256").update(bytes).digest("hex"));
});
