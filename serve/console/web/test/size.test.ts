/** What the first page costs: everything that is loaded before it stands, as it goes over the wire. */
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";

const ASSETS = "../dist/assets";

test("the first load is at most 150 kB of scripts and styles", () => {
  const document_ = readFileSync("../dist/index.html", "utf8");
  const size = (name: string) => gzipSync(readFileSync(`${ASSETS}/${name}`)).length;
  const named = [...document_.matchAll(/assets\/([\w.-]+\.(?:js|css))/g)].map(([, name]) => size(name ?? ""));
  const pages = readdirSync(ASSETS).filter((name) => name.endsWith(".js") && !document_.includes(name));
  const largest = Math.max(...pages.map(size));
  const total = named.reduce((sum, each) => sum + each, 0) + largest;
  console.log(
    `first load: ${Math.round(total / 1000)} kB gzipped, of it the largest page ${Math.round(largest / 1000)} kB`,
  );
  expect(total).toBeLessThan(150_000);
});
