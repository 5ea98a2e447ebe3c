/** Latents that were looked at lately, and those beside them. */
import type { ConceptList, FeatureDetail } from "../src/server/feature-schemas.ts";
import { api, ask } from "./api.ts";

const KEPT = 200;
const kept = new Map<string, Promise<FeatureDetail>>();

/** One latent with everything about it. @throws ApiError */
export function featureOf(run: string, latent: number): Promise<FeatureDetail> {
  const key = `${run} ${latent}`;
  let found = kept.get(key);
  if (!found) {
    found = ask(
      api.runs[":run"].features[":latent"].$get({ param: { run, latent: String(latent) } }),
    );
    found.catch(() => kept.delete(key));
    kept.set(key, found);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value!);
  }
  return found;
}

const concepts = new Map<string, Promise<ConceptList | null>>();

/** Which latents fit which concepts; null where it has not been tried. @throws ApiError */
export function conceptsOf(run: string): Promise<ConceptList | null> {
  let found = concepts.get(run);
  if (!found) {
    found = ask(api.runs[":run"].concepts.$get({ param: { run } }));
    // What is not there yet may be by the next time.
    found.then(
      (list) => list ?? concepts.delete(run),
      () => concepts.delete(run),
    );
    concepts.set(run, found);
  }
  return found;
}

/** After an index was made anew. */
export function forgetFeatures(): void {
  kept.clear();
  concepts.clear();
}
