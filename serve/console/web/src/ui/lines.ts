/** Lines that differ between two texts (Myers 1986, An O(ND) difference algorithm). */

export type Line = { kind: " " | "+" | "-"; text: string };

/** Beyond so many differences the rest is told as removed and added whole. */
const MOST = 2_000;

export function diffLines(before: string, after: string): Line[] {
  const a = before.split("\n");
  const b = after.split("\n");
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a.at(-1 - tail) === b.at(-1 - tail)) tail += 1;
  const same = (text: string): Line => ({ kind: " ", text });
  return [
    ...a.slice(0, head).map(same),
    ...middle(a.slice(head, a.length - tail), b.slice(head, b.length - tail)),
    ...(tail ? a.slice(-tail).map(same) : []),
  ];
}

function middle(a: string[], b: string[]): Line[] {
  const whole = [
    ...a.map((text): Line => ({ kind: "-", text })),
    ...b.map((text): Line => ({ kind: "+", text })),
  ];
  if (a.length === 0 || b.length === 0) return whole;
  const trace: Map<number, number>[] = [];
  const furthest = new Map<number, number>([[1, 0]]);
  for (let d = 0; d <= Math.min(MOST, a.length + b.length); d += 1) {
    trace.push(new Map(furthest));
    for (let k = -d; k <= d; k += 2) {
      let x = down(furthest, k, d) ? (furthest.get(k + 1) ?? 0) : (furthest.get(k - 1) ?? 0) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      furthest.set(k, x);
      if (x >= a.length && x - k >= b.length) return walked(a, b, trace);
    }
  }
  return whole;
}

function down(furthest: ReadonlyMap<number, number>, k: number, d: number): boolean {
  return k === -d || (k !== d && (furthest.get(k - 1) ?? -1) < (furthest.get(k + 1) ?? -1));
}

function walked(a: string[], b: string[], trace: Map<number, number>[]): Line[] {
  const lines: Line[] = [];
  let x = a.length;
  let y = b.length;
  for (let d = trace.length - 1; d >= 0; d -= 1) {
    const furthest = trace[d] ?? new Map<number, number>();
    const k = x - y;
    const from = down(furthest, k, d) ? k + 1 : k - 1;
    const fromX = d === 0 ? 0 : (furthest.get(from) ?? 0);
    const fromY = d === 0 ? 0 : fromX - from;
    while (x > fromX && y > fromY) {
      x -= 1;
      y -= 1;
      lines.push({ kind: " ", text: a[x] ?? "" });
    }
    if (d === 0) break;
    if (x === fromX) {
      y -= 1;
      lines.push({ kind: "+", text: b[y] ?? "" });
    } else {
      x -= 1;
      lines.push({ kind: "-", text: a[x] ?? "" });
    }
  }
  return lines.reverse();
}
