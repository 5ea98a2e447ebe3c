/**
 * What a language model is asked about a latent, and how its answers are read. A change to any text
 * here is a new PROMPTS version, which is stored with each explanation.
 */
import { Unreadable, type Message, type Question } from "./endpoint.ts";
import type { Example } from "./features.ts";

export const PROMPTS = "lens-1";

/** Pieces with at least this share of the largest activation are marked. */
const MARK_FROM = 0.3;

export function plainText({ pieces }: Example): string {
  return pieces.join("");
}

/** The text with «runs» of the pieces that `isMarked` marks. */
export function markedText({ pieces }: Example, isMarked: (piece: number) => boolean): string {
  let text = "";
  pieces.forEach((piece, i) => {
    if (isMarked(i) && !(i > 0 && isMarked(i - 1))) text += "<<";
    text += piece;
    if (isMarked(i) && !(i + 1 < pieces.length && isMarked(i + 1))) text += ">>";
  });
  return text;
}

/** The pieces that count as active, `max` being the latent's largest activation on train documents. */
export function activePieces({ values }: Example, max: number): boolean[] {
  return values.map((value) => value > 0 && value >= MARK_FROM * max);
}

/** Activations as whole numbers from 0 to 10. */
function toTen(value: number, max: number): number {
  return Math.min(10, Math.max(value > 0 ? 1 : 0, Math.round((10 * value) / max)));
}

const shown = (text: string) => text.replaceAll("\n", "⏎");

/** For an explanation of a latent from examples on train documents. */
export function explainPrompt(
  examples: readonly Example[],
  max: number,
): Pick<Question<string>, "messages" | "parse" | "reminder" | "expectedTokens"> {
  const texts = examples.map((example, i) => {
    const active = activePieces(example, max);
    const marked = (piece: number) => active[piece] || piece === example.peak;
    const list = example.pieces
      .flatMap((piece, at) =>
        example.values[at] > 0
          ? [`${JSON.stringify(piece)} ${toTen(example.values[at], max)}`]
          : [],
      ) // prettier-ignore
      .join(", ");
    return `${i + 1}. ${shown(markedText(example, marked))}\n   activations: ${list}`;
  });
  return {
    messages: [
      {
        role: "system",
        content:
          "You study what single features of a language model respond to. You are given texts; the tokens on " +
          "which the feature is active are between << and >>, and listed with their activation from 1 to 10. The model " +
          "reads from left to right: what comes after a token cannot make the feature active on it. Say in one short " +
          "sentence what the feature responds to: name the words, or what they and the words before them have in common. " +
          "Answer with one line that begins with EXPLANATION: and nothing else.",
      },
      { role: "user", content: texts.join("\n") },
    ],
    parse: (text) => {
      const line = /EXPLANATION:\s*(.+)/i.exec(text)?.[1].trim();
      if (!line) throw new Unreadable("no line that begins with EXPLANATION:");
      return line.replace(/^["“]|["”]$/g, "").slice(0, 500);
    },
    reminder: "Answer with one line that begins with EXPLANATION: and nothing else.",
    expectedTokens: 40,
  };
}

const numbered = (texts: readonly string[]) => texts.map((text, i) => `${i + 1}. ${shown(text)}`).join("\n"); // prettier-ignore

function system(content: string): Message {
  return { role: "system", content };
}

/** Is the feature active somewhere in each text? */
export function detectionPrompt(
  explanation: string,
  texts: readonly string[],
): Question<boolean[]> {
  return yesOrNo(
    "You are told what a feature of a language model responds to, and given numbered texts. Say for each text " +
      "whether the feature is active anywhere in it: 1 if it is, 0 if not. ",
    explanation,
    texts,
  );
}

/** Are the marks where the feature is active? */
export function fuzzingPrompt(explanation: string, texts: readonly string[]): Question<boolean[]> {
  return yesOrNo(
    "You are told what a feature of a language model responds to, and given numbered texts with some tokens " +
      "between << and >>. Say for each text whether the marked tokens are those on which the feature is active: 1 if they are, 0 if not. ",
    explanation,
    texts,
  );
}

function yesOrNo(task: string, explanation: string, texts: readonly string[]): Question<boolean[]> {
  const form = `Answer with a JSON array of ${texts.length} numbers, each 0 or 1, and nothing else.`;
  return {
    messages: [
      system(task + form),
      { role: "user", content: `Feature: ${explanation}\n\n${numbered(texts)}` },
    ],
    parse: (text) =>
      arrayIn(text, texts.length).map((value) => {
        if (value === 1 || value === true) return true;
        if (value === 0 || value === false) return false;
        throw new Unreadable(`${JSON.stringify(value)} is neither 0 nor 1`);
      }),
    reminder: form,
    expectedTokens: 2 * texts.length + 4,
  };
}

/** Which text is the odd one? From 0. */
export function intruderPrompt(texts: readonly string[]): Question<number> {
  const form = `Answer with its number, from 1 to ${texts.length}, and nothing else.`;
  return {
    messages: [
      system(
        "All texts but one have something in common: a feature of a language model is active in them. Which is the odd one? " +
          form,
      ),
      { role: "user", content: numbered(texts) },
    ],
    parse: (text) => {
      const numbers = [...text.matchAll(/\d+/g)].map(([digits]) => Number(digits));
      const last = numbers.at(-1);
      if (last === undefined || last < 1 || last > texts.length)
        throw new Unreadable(`no number from 1 to ${texts.length}`);
      return last - 1;
    },
    reminder: form,
    expectedTokens: 4,
  };
}

/** How active is the feature on each piece, from 0 to 10? */
export function simulationPrompt(explanation: string, { pieces }: Example): Question<number[]> {
  const form = `Answer with a JSON array of ${pieces.length} numbers from 0 to 10, one for each token, and nothing else.`;
  return {
    messages: [
      system(
        "You are told what a feature of a language model responds to, and given the tokens of a text as a JSON array. Predict for each token how " +
          `active the feature is on it: 0 not at all, 10 as much as it can be. Most are 0. ${form}`,
      ),
      { role: "user", content: `Feature: ${explanation}\n\n${JSON.stringify(pieces)}` },
    ],
    parse: (text) =>
      arrayIn(text, pieces.length).map((value) => {
        if (typeof value !== "number" || !(value >= 0 && value <= 10))
          throw new Unreadable(`${JSON.stringify(value)} is no number from 0 to 10`);
        return value;
      }),
    reminder: form,
    expectedTokens: 2 * pieces.length + 2,
  };
}

/** The last JSON array of `length` values in a text. */
function arrayIn(text: string, length: number): unknown[] {
  for (const [found] of [...text.matchAll(/\[[^[\]]*\]/g)].reverse()) {
    let values: unknown;
    try {
      values = JSON.parse(found);
    } catch {
      continue;
    }
    if (Array.isArray(values) && values.length === length) return values;
  }
  throw new Unreadable(`no JSON array of ${length} values`);
}
