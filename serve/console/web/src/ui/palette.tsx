/** Ctrl K: pages, models and runs by their names. */
import { type KeyboardEvent, useId, useState } from "react";
import { useLocation } from "wouter";
import { $api } from "../api";
import { short } from "../fmt";
import { PAGES } from "../routes";
import { useMay } from "../session";
import { Dialog } from "./dialog";

type Found = { kind: string; name: string; href: string };
const MOST = 12;

export function Palette({ close }: { close: () => void }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const [, navigate] = useLocation();
  const id = useId();
  const list = { params: { query: { limit: 100 } } };
  const models = $api.useQuery("get", "/api/v1/llms", list, { enabled: useMay("GET /api/v1/llms") });
  const runs = $api.useQuery("get", "/api/v1/runs", list, { enabled: useMay("GET /api/v1/runs") });
  const all: Found[] = [
    ...PAGES.map((each) => ({ kind: "page", name: each.title, href: each.path })),
    ...(models.data?.data ?? []).map((each) => ({
      kind: "model",
      name: each.name,
      href: `/registry/${each.name}`,
    })),
    ...(runs.data?.data ?? []).map((each) => ({
      kind: "run",
      name: `${each.name} ${short(each.id)}`,
      href: `/runs/${each.id}`,
    })),
  ];
  const found = matching(all, text).slice(0, MOST);
  const go = (to: Found | undefined) => {
    if (!to) return;
    close();
    navigate(to.href);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown") setAt(Math.min(at + 1, found.length - 1));
    else if (event.key === "ArrowUp") setAt(Math.max(at - 1, 0));
    else if (event.key === "Enter") go(found[at]);
    else return;
    event.preventDefault();
  };
  return (
    <Dialog title="Find" close={close}>
      <input
        className="input"
        role="combobox"
        aria-label="A page, model or run"
        aria-expanded="true"
        aria-controls={`${id}-list`}
        aria-activedescendant={found[at] ? `${id}-${at}` : undefined}
        autoComplete="off"
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          setAt(0);
        }}
        onKeyDown={onKey}
      />
      <div id={`${id}-list`} className="found" role="listbox" aria-label="What was found">
        {found.map((each, index) => (
          // biome-ignore lint/a11y/useKeyWithClickEvents: the keys are the field's, as a listbox has them
          <div
            key={each.href}
            id={`${id}-${index}`}
            role="option"
            tabIndex={-1}
            aria-selected={index === at}
            onClick={() => go(each)}
          >
            <span className="label">{each.kind}</span> {each.name}
          </div>
        ))}
      </div>
      {found.length === 0 && <p className="small">Nothing is called that.</p>}
    </Dialog>
  );
}

/** Those whose name holds all words of `text`; names that begin with it first. */
export function matching(all: readonly Found[], text: string): Found[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = all.filter((each) => words.every((word) => each.name.toLowerCase().includes(word)));
  const first = words[0] ?? "";
  return hits.sort(
    (one, other) =>
      Number(other.name.toLowerCase().startsWith(first)) - Number(one.name.toLowerCase().startsWith(first)),
  );
}
