/** Keys of every page. A field that is written in, or a dialog, has its own. */
import { useEffect } from "react";
import { useLocation } from "wouter";
import { PAGES } from "./routes";

const WAIT_MS = 1_200;

export function useKeys(open: (what: "help" | "palette") => void) {
  const [, navigate] = useLocation();
  useEffect(() => {
    let prefix = 0;
    const onKey = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        if (!document.querySelector("dialog[open]")) open("palette");
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey || isWriting(event.target)) return;
      if (document.querySelector("dialog[open]")) return;
      if (Date.now() - prefix < WAIT_MS) {
        prefix = 0;
        const page = PAGES.find((each) => each.letter === event.key);
        if (page) {
          event.preventDefault();
          navigate(page.path);
          document.getElementById("main")?.focus();
        }
        return;
      }
      if (event.key === "g") prefix = Date.now();
      else if (event.key === "?") open("help");
      else if (event.key === "/") {
        const field = document.querySelector<HTMLElement>("[data-search]");
        if (!field) return;
        event.preventDefault();
        field.focus();
      } else if ((event.key === "j" || event.key === "k") && !inTable(event.target)) {
        document.querySelector<HTMLElement>("[data-rows] > tr[tabindex='0']")?.focus();
      }
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [navigate, open]);
}

function isWriting(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement)
    return !["checkbox", "radio", "range", "button"].includes(target.type);
  return (
    target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || target.isContentEditable
  );
}

function inTable(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.closest("[data-rows]") !== null;
}
