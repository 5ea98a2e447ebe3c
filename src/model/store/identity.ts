/** What makes two stores, or two plans, the same. */
import { hashBytes } from "../../file-hash.ts";
import type { StoreManifest, StorePlan } from "./manifest.ts";

/** The plan without paths: files are what they hold, wherever they lie. */
export function essence<P extends StorePlan>({ model, data, made, ...plan }: P): object {
  const { name: _name, ...weights } = model;
  const place = (data: { hash: string | null }) =>
    data.hash === null ? data : { ...data, source: null };
  const parts = made?.by === "merge" ? made.parts : undefined;
  return {
    ...plan,
    model: weights,
    data: place(data),
    ...(made && {
      made: parts
        ? { by: "merge", parts: parts.map((part) => ({ ...part, data: place(part.data) })) }
        : made,
    }),
  };
}

/**
 * xxh64 of what a finished store is: its plan without names and paths, and the hashes of its
 * files. Stores of the same bytes from the same plan have the same, wherever they were made.
 */
export function storeHash({ hashes: _hashes, ...manifest }: StoreManifest): Promise<string> {
  return hashBytes(Buffer.from(JSON.stringify(essence(manifest))));
}

/** Fields in which two objects differ, as "a.b was 1, now 2", with other words for `was` and `now` where they are wanted. */
export function differencesOf(
  before: object,
  now: object,
  words: readonly [was: string, now: string] = ["was", "now"],
  path = "",
): string[] {
  const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;
  const keys = new Set([...Object.keys(before), ...Object.keys(now)]);
  return [...keys].flatMap((key) => {
    const [old, current] = [before, now].map((o) => (o as Record<string, unknown>)[key]);
    if (isObject(old) && isObject(current))
      return differencesOf(old, current, words, `${path}${key}.`);
    if (old === current) return [];
    const show = (value: unknown) => JSON.stringify(value) ?? "absent";
    return [`${path}${key} ${words[0]} ${show(old)}, ${words[1]} ${show(current)}`];
  });
}
