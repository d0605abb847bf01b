/** Numbers, times and sizes as text. Times are UTC, durations in words, thousands with commas. */

export const DASH = "–";

export function num(value: number | null | undefined, digits = 0): string {
  if (value === null || value === undefined || Number.isNaN(value)) return DASH;
  return value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

/** Significant digits: `0.6132`, `1,240`. */
export function sig(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined || Number.isNaN(value)) return DASH;
  return value.toLocaleString("en-US", { maximumSignificantDigits: digits });
}

/** `12.3 k`, `4.5 M`. */
export function si(value: number | null | undefined): string {
  if (value === null || value === undefined) return DASH;
  const size = Math.abs(value);
  if (size < 1000) return sig(value, 3);
  const units = ["k", "M", "G", "T"];
  let scaled = value / 1000;
  let at = 0;
  while (Math.abs(scaled) >= 1000 && at < units.length - 1) {
    scaled /= 1000;
    at += 1;
  }
  return `${sig(scaled, 3)} ${units[at]}`;
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return DASH;
  if (value < 1024) return `${value} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let scaled = value / 1024;
  let at = 0;
  while (scaled >= 1024 && at < units.length - 1) {
    scaled /= 1024;
    at += 1;
  }
  return `${sig(scaled, 3)} ${units[at]}`;
}

export function usd(value: number | string | null | undefined): string {
  if (value === null || value === undefined) return DASH;
  return `$${sig(Number(value), 4)}`;
}

export function percent(share: number | null | undefined, digits = 1): string {
  return share === null || share === undefined ? DASH : `${num(share * 100, digits)} %`;
}

/** Seconds in words: `68 s`, `44 min`, `3 h 20 min`, `2 d 4 h`. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds < 10) return `${sig(seconds, 2)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** `2026-03-31 10:00:00`, UTC. */
export function when(at: string | null | undefined, seconds = false): string {
  if (!at) return DASH;
  return new Date(at)
    .toISOString()
    .replace("T", " ")
    .slice(0, seconds ? 19 : 16);
}

export function since(at: string | null | undefined, until: string | number | null = null): number | null {
  if (!at) return null;
  const end = until === null ? Date.now() : typeof until === "number" ? until : Date.parse(until);
  return Math.max(0, (end - Date.parse(at)) / 1000);
}

export function short(id: string): string {
  return id.slice(-6);
}
