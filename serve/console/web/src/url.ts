/** State that belongs to the address, so that it survives a reload, a link and the back button. */
import { useCallback } from "react";
import { useSearchParams } from "wouter";

/** One parameter of the query. An empty value, or the usual one, leaves the address. */
export function useParam(name: string, usual = ""): [string, (next: string) => void] {
  const [params, set] = useSearchParams();
  const change = useCallback(
    (next: string) =>
      set((before) => {
        const after = new URLSearchParams(before);
        if (next === "" || next === usual) after.delete(name);
        else after.set(name, next);
        if (name !== "cursor") after.delete("cursor");
        return after;
      }),
    [name, usual, set],
  );
  return [params.get(name) ?? usual, change];
}
