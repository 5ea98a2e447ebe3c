/**
 * Prompts in the manner of the stories that end where the next word is decided by what was planted
 * before: who a character is. Attributes of a character cross: of six elders each sex has three, each
 * generation two, and every elder goes with heroes of both sexes.
 */
import { BOYS, ELDERS, GIRLS } from "./cast.ts";

/** A text, and what the model has to know of its characters to go on. */
export interface AttributePrompt {
  text: string;
  /** Prompts of one form ask the same attributes in the same way. */
  form: string;
  /** The hero: prompts that share one are not independent of each other. */
  unit: string;
  /** All attributes of the characters; which of them the next word tells, `answers` says. */
  values: Readonly<Record<string, string>>;
  /** Attribute that the next word tells → value → words. */
  answers: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>;
}

type Words = (facts: Record<"name" | "elder" | "his" | "him", string>) => string;

const GENERATION: Record<string, string> = {
  ...{ mother: "parent", father: "parent", grandmother: "grandparent" },
  ...{ grandfather: "grandparent", aunt: "aunt or uncle", uncle: "aunt or uncle" },
};

/** Elders by the value that `of` gives them. */
function eldersBy(of: (elder: string, pronoun: string) => string): Record<string, string[]> {
  const found: Record<string, string[]> = {};
  for (const [elder, pronoun] of ELDERS) (found[of(elder, pronoun)] ??= []).push(elder);
  return found;
}

/** How the plots let an elder speak. */
const SPEECHES: Words[] = [
  ({ name, his, elder }) => `"Can we keep it?" ${name} asked ${his} ${elder}. "First we must find out if it belongs to somebody," said`, // prettier-ignore
  ({ name, his, elder }) => `One sunny morning, ${name} and ${his} ${elder} decided to bake a cake. "May I taste it?" asked ${name}. "Not yet," said`, // prettier-ignore
  ({ name, his, him, elder }) => `One warm day, ${his} ${elder} gave ${him} a tiny seed. "What is it?" asked ${name}. "Wait and see," said`, // prettier-ignore
  ({ his, him, elder }) => `One windy morning, ${his} ${elder} gave ${him} a basket and three coins. "Please buy bread, milk and eggs," said`, // prettier-ignore
  ({ name, his, elder }) => `"Can we fix it?" ${name} asked ${his} ${elder}. "Of course we can," said`, // prettier-ignore
];

const FORMS: { form: string; texts: Words[]; answers: AttributePrompt["answers"] }[] = [
  {
    form: '"…," said her … (mother, uncle)',
    texts: SPEECHES.map(
      (words): Words =>
        (facts) =>
          `${words(facts)} ${facts.his}`,
    ),
    answers: {
      "elder's sex": eldersBy((_, pronoun) => pronoun),
      "elder's generation": eldersBy((elder) => GENERATION[elder]),
    },
  },
  {
    form: '"…," said … (his, her)',
    texts: SPEECHES,
    answers: { "hero's sex": { she: ["her"], he: ["his"] } },
  },
];

const OPENINGS: ((name: string, kind: string, Her: string) => string)[] = [
  (name, kind) => `Once upon a time, there was a kind ${kind} named ${name}.`,
  (name, kind, Her) => `In a small house near the forest lived a brave ${kind}. ${Her} name was ${name}.`, // prettier-ignore
  (name, kind) => `${name} was a clever ${kind} who loved to count the birds.`,
];

/** Of every child's name with every elder one prompt of each form, openings and wordings taking turns. */
export function attributePrompts(): AttributePrompt[] {
  const found: AttributePrompt[] = [];
  for (const [girl, names] of [BOYS, GIRLS].entries())
    for (const [n, name] of names.entries())
      for (const [e, [elder, pronoun]] of ELDERS.entries())
        for (const { form, texts, answers } of FORMS) {
          const [his, him, His] = girl ? ["her", "her", "Her"] : ["his", "him", "His"];
          const opening = OPENINGS[(n + e) % OPENINGS.length](name, girl ? "girl" : "boy", His);
          const text = `${opening} ${texts[(n + 2 * e) % texts.length]({ name, elder, his, him })}`; // prettier-ignore
          const values = {
            ...{ "hero's sex": girl ? "she" : "he", "elder's sex": pronoun },
            "elder's generation": GENERATION[elder],
          };
          found.push({ text, form, unit: name, values, answers });
        }
  return found;
}
