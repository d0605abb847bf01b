/** A whole number as it was typed; null when nothing was. What is neither must not become "no bound". */
export function whole(text: string): number | null {
  const typed = text.trim();
  if (typed === "") return null;
  if (!/^\d+$/.test(typed)) throw new Error(`${typed} is no whole number: type one, or nothing`);
  return Number(typed);
}
