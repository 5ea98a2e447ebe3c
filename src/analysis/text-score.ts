/** What generated text is searched for. */
import { CONCEPTS } from "../corpus/index.ts";
import { labelWords } from "../corpus/labeller.ts";
import { nearestName, UserError } from "../error.ts";
import type { Score } from "./dose.ts";

/** The concept of the corpus that has this name. @throws UserError when there is none. */
export function conceptNamed(name: string): string {
  const names = CONCEPTS.map((known) => known.name);
  if (names.includes(name)) return name;
  const near = nearestName(name, names);
  throw new UserError(`there is no concept ${name}${near ? `; did you mean ${near}?` : ""}`);
}

/** Words that show a concept, by the corpus's lexicon. @throws UserError when there is no such concept. */
export function conceptScore(concept: string): Score {
  conceptNamed(concept);
  return (text) => {
    let [hits, words] = [0, 0];
    for (const { concepts } of labelWords(text)) {
      words++;
      if (concepts.includes(concept)) hits++;
    }
    return { hits, words };
  };
}

/** Matches of a pattern, which must be global, beside all words. */
export function patternScore(pattern: RegExp): Score {
  return (text) => ({
    hits: [...text.matchAll(pattern)].length,
    words: [...text.matchAll(/\p{L}+/gu)].length,
  });
}
