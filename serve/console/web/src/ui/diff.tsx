/** Two texts, line by line. Long ones are drawn as they come into sight; the browser's own search still finds all. */
import { useMemo } from "react";
import { diffLines } from "./lines";

const SECTION = 100;

export function Diff({ before, after, label }: { before: string; after: string; label: string }) {
  const lines = useMemo(() => diffLines(before, after), [before, after]);
  const sections = Array.from({ length: Math.ceil(lines.length / SECTION) }, (_, at) => at);
  if (lines.every((line) => line.kind === " ")) return <p className="small">No line differs.</p>;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <section className="diff" tabIndex={0} aria-label={label}>
      {sections.map((section) => (
        <div key={section} className="diff-section">
          {lines.slice(section * SECTION, (section + 1) * SECTION).map((line, at) => (
            <div
              // biome-ignore lint/suspicious/noArrayIndexKey: a line is its place, and none moves
              key={`${section}-${at}`}
              className={line.kind === "+" ? "added" : line.kind === "-" ? "gone" : ""}
            >
              <span className="sign">{line.kind}</span>
              {line.text}
            </div>
          ))}
        </div>
      ))}
    </section>
  );
}
