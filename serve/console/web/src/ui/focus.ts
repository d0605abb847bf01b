/**
 * Whoever has no mouse stays where they were: what had the focus may be gone, or may not be used for a moment, once
 * something is done; the focus would then be the document's, and the next key would begin anew at the top.
 */

function isLost(): boolean {
  return document.activeElement === null || document.activeElement === document.body;
}

/** Once what React has to draw is drawn. */
function drawn(then: () => void) {
  requestAnimationFrame(() => requestAnimationFrame(then));
}

/**
 * Call it before something is done, and what it returns after it. A focus that is lost goes back to what had it; if
 * that is gone, to the table that it was in, or to the page's title. Whoever has moved on meanwhile is left alone.
 */
export function keepFocus(): () => void {
  const before = document.activeElement;
  const table = before?.closest(".table-box");
  return () =>
    drawn(() => {
      if (!isLost()) return;
      if (before instanceof HTMLElement && before.isConnected) before.focus();
      if (!isLost()) return;
      const row = table?.isConnected ? table.querySelector<HTMLElement>("tr[tabindex='0']") : null;
      (row ?? document.querySelector<HTMLElement>("main h1"))?.focus();
    });
}

/** After another page was drawn in place of the one that had it. */
export function focusPage() {
  drawn(() => {
    if (isLost()) document.getElementById("main")?.focus();
  });
}
