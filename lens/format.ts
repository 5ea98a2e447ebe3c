/** Numbers and times on pages: as in the terminal (readable.ts), and what does not exist is –. */
import * as readable from "../src/readable.ts";

export function short(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  return readable.rounded(value, digits);
}

/** A value with the ends of its interval, where it has one. */
export function ranged(
  one: { value: number | null; low: number | null; high: number | null } | undefined,
  digits = 2,
): string {
  if (!one || one.value === null) return "–";
  const { value, low, high } = one;
  return Number.isFinite(low)
    ? `${short(value, digits)} (${short(low, 2)} to ${short(high, 2)})`
    : short(value, digits);
}

export function percent(share: number | null | undefined, digits = 3): string {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  const value = 100 * share;
  if (value !== 0 && Math.abs(value) < 0.001) return `${value.toExponential(1)} %`;
  return `${Number(value.toPrecision(digits))} %`;
}

export function bytes(count: number): string {
  for (const [unit, size] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ] as const)
    if (count >= size) return `${short(count / size, 3)} ${unit}`;
  return `${short(count)} bytes`;
}

export function duration(seconds: number): string {
  return Number.isFinite(seconds) ? readable.duration(seconds) : "–";
}

export function when(iso: string): string {
  const date = new Date(iso);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" });
}

/** A token with what cannot be seen made visible. */
export function visible(text: string): string {
  return text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "·");
}
