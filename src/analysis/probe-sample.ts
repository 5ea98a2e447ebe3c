/** What the probe of a concept is fitted to: some of the positions with it and some of those without, and a few columns there. */
import type { Rng } from "../rng.ts";
import { rowsOf } from "./columns.ts";
import { fitProbe, type Probe } from "./probe.ts";

const MAX_POSITIVES = 1000;
const MAX_NEGATIVES = 2000;

/** At most 1,000 positions with and 2,000 without the label, in the order of the text. */
export function sampleOf(labels: Uint8Array, rng: Rng): Int32Array {
  const placesOf = (label: number) => {
    const places = new Int32Array(labels.length);
    let count = 0;
    for (let p = 0; p < labels.length; p++) if (labels[p] === label) places[count++] = p;
    return places.subarray(0, count);
  };
  const [own, others] = [placesOf(1), placesOf(0)];
  const some = (places: Int32Array, count: number) =>
    places.length > count ? rng.shuffle(places).subarray(0, count) : places;
  return Int32Array.from([...some(own, MAX_POSITIVES), ...some(others, MAX_NEGATIVES)]).sort();
}

/** On these columns, from a probe on the first of them. */
export function sparseProbe(
  columns: readonly Float32Array[],
  labels: Uint8Array,
  start: Probe | undefined,
): Probe {
  return fitProbe(rowsOf(columns), labels, { standardise: true, ...(start && { start }) });
}
