/** An interval drawn on a scale that its neighbours share. The numbers stand beside it. */

export type Scale = { from: number; to: number };

/** A scale that holds all of them, and zero where it is asked for. */
export function scaleOf(values: readonly (number | null)[], zero = false): Scale {
  const known = values.filter((each): each is number => each !== null);
  if (zero) known.push(0);
  const [from, to] = [Math.min(...known), Math.max(...known)];
  return known.length === 0 || from === to ? { from: (from || 0) - 0.5, to: (to || 0) + 0.5 } : { from, to };
}

export function Whisker({
  low,
  high,
  at,
  scale,
  zero = false,
}: {
  low: number | null;
  high: number | null;
  at: number;
  scale: Scale;
  zero?: boolean;
}) {
  const place = (value: number) => `${((value - scale.from) / (scale.to - scale.from)) * 100}%`;
  const [left, right] = [low ?? at, high ?? at];
  return (
    <div className="whisker" aria-hidden="true">
      {zero && <div className="whisker-zero" style={{ left: place(0) }} />}
      <div
        className="whisker-line"
        style={{ left: place(left), width: `${((right - left) / (scale.to - scale.from)) * 100}%` }}
      />
      <div className="whisker-at" style={{ left: place(at) }} />
    </div>
  );
}
