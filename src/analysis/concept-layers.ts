/**
 * Where a concept is to be found in a model: for each hook point the single latent that tells it best,
 * chosen by AUC on some documents and measured on others (concept-alignment.ts).
 */
import { ALIGNED_AUC } from "./concepts.ts";
import type { ConceptCoverage } from "./concept-alignment.ts";
import type { Interval } from "./interval.ts";

/** A concept at one hook point. */
export interface ConceptAt {
  latent: number;
  /** On the test documents, with its interval over documents. */
  auc: Interval;
  /** At the threshold with the best F1 on the selection documents. */
  f1: number;
  /** What the same choice finds for labels moved along the text: mean AUC over the shuffles. */
  null: number;
}

/** A concept along the hook points. */
export interface ConceptCourse {
  concept: string;
  /** Test positions that carry it. */
  positives: number;
  /** One for each hook point. */
  at: ConceptAt[];
  /** The first hook point with AUC ≥ 0.95; -1 where none has. */
  appears: number;
  /** The hook point with the highest AUC, the first of equals. */
  peak: number;
  /** The first one after the peak whose interval lies wholly below the peak's; -1 where none does. */
  fades: number;
}

/** Courses from what `matchConcepts` found at each hook point on the same text; by peak, then by name. */
export function conceptCourses(
  found: readonly Pick<ConceptCoverage, "concepts">[],
): ConceptCourse[] {
  const byName = found.map(
    ({ concepts }) => new Map(concepts.map((match) => [match.concept, match])),
  );
  return found[0].concepts
    .map(({ concept, positives }): ConceptCourse => {
      const at = byName.map((matches): ConceptAt => {
        const { best, byChance } = matches.get(concept)!;
        return { latent: best.latent, auc: best.auc, f1: best.f1.value, null: byChance.auc };
      });
      return { concept, positives: positives.test, at, ...courseOf(at.map(({ auc }) => auc)) };
    })
    .sort((a, b) => a.peak - b.peak || (a.concept < b.concept ? -1 : 1));
}

/** Where it appears, peaks and fades. @param auc of each hook point, in their order. */
export function courseOf(
  auc: readonly Interval[],
): Pick<ConceptCourse, "appears" | "peak" | "fades"> {
  let peak = 0;
  for (const [i, { value }] of auc.entries()) if (value > auc[peak].value) peak = i;
  return {
    appears: auc.findIndex(({ value }) => value >= ALIGNED_AUC),
    peak,
    fades: auc.findIndex(({ high }, i) => i > peak && high < auc[peak].low),
  };
}
