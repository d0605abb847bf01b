/** State that belongs to the address, so that it survives a reload, a link and the back button. */
import { useCallback, useEffect, useState } from "react";
import { useSearchParams } from "wouter";

/** One parameter of the query. An empty value, or the usual one, leaves the address. Another filter or tab begins
 * at the first page of a list. */
export function useParam(name: string, usual = ""): [string, (next: string) => void] {
  const [params, set] = useSearchParams();
  const change = useCallback(
    (next: string) =>
      set(
        (before) => {
          const after = new URLSearchParams(before);
          if (next === "" || next === usual) after.delete(name);
          else after.set(name, next);
          after.delete("cursor");
          after.delete("page");
          return after;
        },
        { replace: true },
      ),
    [name, usual, set],
  );
  return [params.get(name) ?? usual, change];
}

/** The place in a list that is read by cursor; `Table` moves it. */
export function useCursor(): string | undefined {
  const [params] = useSearchParams();
  return params.get("cursor") ?? undefined;
}

const TYPED_MS = 250;

/** A parameter that is typed: what the field shows, and the address a moment after the last key. */
export function useTyped(name: string): [string, (next: string) => void, string] {
  const [settled, settle] = useParam(name);
  const [text, setText] = useState(settled);
  useEffect(() => {
    if (text === settled) return;
    const timer = setTimeout(() => settle(text), TYPED_MS);
    return () => clearTimeout(timer);
  }, [text, settled, settle]);
  return [text, setText, settled];
}
