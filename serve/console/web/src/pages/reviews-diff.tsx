/** A unified diff, file by file. A file is drawn when it is opened; the first one is. */
import { useState } from "react";
import { num } from "../fmt";
import { save } from "../save";
import { Button } from "../ui/controls";
import { Panel } from "../ui/page";

export type FileDiff = { name: string; lines: string[]; added: number; gone: number };

const SECTION = 100;

/** Heads of files stand before their first hunk; a line of code that looks like one is within a hunk. */
export function filesOf(diff: string): FileDiff[] {
  const files: FileDiff[] = [];
  let old = 0;
  let fresh = 0;
  for (const line of diff.replace(/\n$/, "").split("\n")) {
    const file = files.at(-1);
    const hunk = /^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@/.exec(line);
    if (old > 0 || fresh > 0) {
      if (!file) continue;
      file.lines.push(line);
      if (line.startsWith("+")) file.added += 1;
      if (line.startsWith("-")) file.gone += 1;
      if (!line.startsWith("+") && !line.startsWith("\\")) old -= 1;
      if (!line.startsWith("-") && !line.startsWith("\\")) fresh -= 1;
    } else if (line.startsWith("--- ")) {
      files.push({ name: "", lines: [], added: 0, gone: 0 });
    } else if (file && line.startsWith("+++ ")) {
      file.name = line.slice(4).replace(/^b\//, "").trimEnd();
    } else if (file && hunk) {
      old = Number(hunk[1] ?? 1);
      fresh = Number(hunk[2] ?? 1);
      file.lines.push(line);
    } else if (file && line.startsWith("\\")) {
      file.lines.push(line);
    }
  }
  return files;
}

export function UnifiedDiff({ diff, name }: { diff: string; name: string }) {
  const files = filesOf(diff);
  return (
    <Panel
      title="Before and after"
      actions={
        <Button look="quiet" onClick={() => save(name, diff, "text/x-diff")}>
          Save
        </Button>
      }
    >
      {files.map((file, at) => (
        <OneFile key={file.name} file={file} first={at === 0} />
      ))}
    </Panel>
  );
}

function OneFile({ file, first }: { file: FileDiff; first: boolean }) {
  const [open, setOpen] = useState(first);
  const sections = Array.from({ length: Math.ceil(file.lines.length / SECTION) }, (_, at) => at);
  return (
    <details open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <code>{file.name}</code> +{num(file.added)} −{num(file.gone)}
      </summary>
      {open && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
        <section className="diff" tabIndex={0} aria-label={`Difference of ${file.name}`}>
          {sections.map((section) => (
            <div key={section} className="diff-section">
              {file.lines.slice(section * SECTION, (section + 1) * SECTION).map((line, at) => (
                <div
                  // biome-ignore lint/suspicious/noArrayIndexKey: a line is its place, and none moves
                  key={`${section}-${at}`}
                  className={line.startsWith("+") ? "added" : line.startsWith("-") ? "gone" : ""}
                >
                  <span className="sign">{/^[+-]/.test(line) ? line[0] : " "}</span>
                  {/^[+ -]/.test(line) ? line.slice(1) : line}
                </div>
              ))}
            </div>
          ))}
        </section>
      )}
    </details>
  );
}
