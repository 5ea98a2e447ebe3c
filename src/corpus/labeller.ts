/**
 * Concepts of any text, read off its words: the lexicon gives each word form of the corpus one sense, so
 * that text which a model made in the corpus's manner can be labelled without knowing how it came about.
 */
import { lookUp } from "./lexicon.ts";

/** The words of a text with their concepts; words that the lexicon does not hold have none. */
export function* labelWords(
  text: string,
): Generator<{ word: string; concepts: readonly string[]; start: number; end: number }> {
  for (const match of text.matchAll(/\p{L}+(?:['’]\p{L}+)*/gu)) {
    const [word] = match;
    const known = lookUp(word);
    // A capital may only say that a sentence begins.
    const concepts = known.length > 0 ? known : lookUp(word.toLowerCase());
    yield { word, concepts, start: match.index, end: match.index + word.length };
  }
}
