/** Curves as uPlot wants them: one x for all. */

type Points = { x: readonly number[]; y: readonly (number | null)[] };
type Aligned = [number[], ...(number | null)[][]];

/** The union of all x values, ascending, and each curve's values there; null where it has none. */
export function aligned(curves: readonly Points[]): Aligned {
  const all = [...new Set(curves.flatMap((curve) => [...curve.x]))].sort((a, b) => a - b);
  const columns = curves.map((curve) => {
    const at = new Map(curve.x.map((x, index) => [x, curve.y[index] ?? null]));
    return all.map((x) => at.get(x) ?? null);
  });
  return [all, ...columns];
}

/**
 * An exponential moving average that forgets by distance in x, not by number of points, so that parts of different
 * density are smoothed alike. `weight` is what is kept over one average step. Corrected for its start (as in Adam).
 */
export function smoothed(
  x: readonly number[],
  y: readonly (number | null)[],
  weight: number,
): (number | null)[] {
  const span = (x.at(-1) ?? 0) - (x[0] ?? 0);
  const step = x.length > 1 ? span / (x.length - 1) || 1 : 1;
  let sum = 0;
  let mass = 0;
  let last: number | null = null;
  return y.map((value, at) => {
    if (value === null || Number.isNaN(value)) return null;
    const here = x[at] ?? 0;
    const keep = last === null ? 0 : weight ** ((here - last) / step);
    last = here;
    sum = keep * sum + (1 - weight) * value;
    mass = keep * mass + (1 - weight);
    return sum / mass;
  });
}
