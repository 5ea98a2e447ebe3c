import { describe, expect, test } from "vitest";
import { Rng } from "../rng.ts";
import { BOYS, GIRLS, someone, thing } from "./cast.ts";
import { Chooser, Teller } from "./grammar.ts";
import { CONCEPTS, stories, storyAt, type Split, type Story } from "./index.ts";

const SPLITS: Split[] = ["train", "validation", "test"];

function take(split: Split, count: number, seed = 0): Story[] {
  return Array.from({ length: count }, (_, index) => storyAt(split, index, seed));
}

const sample = take("train", 2000);

function wordsUnder(concept: string): Set<string> {
  const words = new Set<string>();
  for (const { text, spans } of sample)
    for (const span of spans)
      if (span.concept === concept) words.add(text.slice(span.start, span.end).toLowerCase());
  return words;
}

describe("stories", () => {
  test("are the same for the same seed, split and index, and reachable from any start", () => {
    const [first] = stories("test", { seed: 7, start: 41 });
    expect(first).toEqual(storyAt("test", 41, 7));
    expect(first.id).toBe("test/7/41");
    expect(storyAt("test", 41, 8).text).not.toBe(first.text);
  });

  test("never change: models/tiny and published numbers rest on these texts", () => {
    expect(storyAt("validation", 0).text).toMatchInlineSnapshot(
      `"Molly was a clever girl who loved to draw pictures. When the snow had melted, her mother gave Molly a small seed. "What is it?" asked Molly. "Wait and see," said her mother. Molly dug a hole in the garden, put the seed into it and poured water on it. A week passed, and the ground was still bare. Then Molly sang to the seed, but nothing grew. Molly watered it every morning and pulled the weeds. It rained, and the sun shone. Then, one morning, there was something green, no bigger than a button! Molly shouted with joy that the birds flew up. By summer it was taller than Molly, and it had a golden face. It was a sunflower! Molly had never been so happy. When the moon rose, Molly was already asleep."`,
    );
  });

  test("of different splits are never equal, whatever the seeds", () => {
    const owner = new Map<string, Split>();
    const twice: string[] = [];
    for (const split of SPLITS)
      for (const seed of [0, 1])
        for (const { text } of take(split, split === "train" ? 800 : 200, seed)) {
          if ((owner.get(text) ?? split) !== split) twice.push(text);
          owner.set(text, split);
        }
    expect(twice).toEqual([]);
    expect(owner.size).toBe(2400);
  });

  test("rarely repeat: whole texts never in 2,000, most openings differ", () => {
    expect(new Set(sample.map(({ text }) => text)).size).toBe(2000);
    expect(new Set(sample.map(({ text }) => text.slice(0, 100))).size).toBeGreaterThan(1600);
  });

  test("are 70 to 240 words long and use more than 1,000 word forms", () => {
    const forms = new Set<string>();
    for (const { text } of sample) {
      const words = text.toLowerCase().match(/[a-z'-]+/g)!;
      expect(words.length).toBeGreaterThan(70);
      expect(words.length).toBeLessThan(240);
      for (const word of words) forms.add(word);
    }
    expect(forms.size).toBeGreaterThan(1000);
  });

  test("have clean spacing, punctuation, quotation marks, capitals and articles", () => {
    for (const { text } of sample) {
      expect(text).toMatch(/^[A-Z"][A-Za-z' ,.!?:"\n-]*[.!?"]$/);
      expect(text).not.toMatch(/ {2}| \n|\n |\n{3}| [,.!?:]|[,.!?:]{2}|undefined/);
      expect(text.split('"').length % 2).toBe(1);
      expect(text).not.toMatch(/[.!?] [a-z]/);
      expect(text).not.toMatch(/\b[Aa] (?!one|use)[aeiou]|\b[Aa]n (?!hour|honest)[^aeiou]/);
      expect(text).not.toMatch(/\b([a-z]+) \1\b/);
    }
  });

  test("agree in number", () => {
    expect(wordsUnder("plural noun")).toContain("children");
    for (const { text } of sample) {
      expect(text).not.toMatch(/\b(they|we) was\b|\b(he|she|it) were\b/i);
      expect(text).not.toMatch(
        /\b(two|three|four|five|six|seven|ten) (little |white |brown |fat |noisy |merry )?[a-z]+s was\b/i,
      );
      expect(text).not.toMatch(/\b[A-Z][a-z]+ and [A-Z][a-z]+ was\b/);
    }
  });

  test("say he and she by the names: girls alone are never he, boys alone never she", () => {
    const female = new Set([...GIRLS, "girl", "mother", "grandmother", "aunt", "sister", "woman"]);
    const male = new Set([...BOYS, "boy", "father", "grandfather", "uncle", "brother", "man"]);
    const people = /^(person\.(name|role)|family|person\.child)$/;
    const wrong: string[] = [];
    let girlsAlone = 0;
    let boysAlone = 0;
    for (const { id, text, spans } of sample) {
      const words = spans
        .filter((span) => people.test(span.concept))
        .map((span) => text.slice(span.start, span.end));
      const shows = (concept: string) => spans.some((span) => span.concept === concept);
      if (words.every((word) => female.has(word))) {
        girlsAlone++;
        if (shows("pronoun.he")) wrong.push(id);
      } else if (words.every((word) => male.has(word))) {
        boysAlone++;
        if (shows("pronoun.she")) wrong.push(id);
      }
    }
    expect(wrong).toEqual([]);
    expect(Math.min(girlsAlone, boysAlone)).toBeGreaterThan(50);
  });
});

describe("spans", () => {
  test("lie within the text, begin and end where words do, are sorted, not repeated, of a listed concept", () => {
    const names = new Set(CONCEPTS.map(({ name }) => name));
    const inWord = (text: string, at: number) =>
      /\w/.test(text[at - 1] ?? " ") && /\w/.test(text[at] ?? " ");
    const wrong: unknown[] = [];
    for (const { id, text, spans } of sample) {
      let last = { concept: "", start: 0, end: 0 };
      for (const span of spans) {
        const { concept, start, end } = span;
        const order = start - last.start || end - last.end || (concept > last.concept ? 1 : -1);
        const inside = start >= 0 && end > start && end <= text.length;
        if (!names.has(concept) || order < 0 || !inside || inWord(text, start) || inWord(text, end))
          wrong.push([id, span]);
        last = span;
      }
    }
    expect(wrong).toEqual([]);
  });

  test("cover exactly the words of their concept", () => {
    expect(wordsUnder("animal.dog")).toEqual(new Set(["dog", "dogs", "puppy"]));
    expect(wordsUnder("colour.red")).toEqual(new Set(["red"]));
    expect(wordsUnder("pronoun.she")).toEqual(new Set(["she", "her"]));
    expect(wordsUnder("pronoun.he")).toEqual(new Set(["he", "him", "his"]));
    expect(wordsUnder("reflexive")).toEqual(new Set(["yourself", "myself"]));
    expect(wordsUnder("feeling.proud")).toEqual(new Set(["proud"]));
  });

  test("miss no word of a concept that has one sense", () => {
    const expected: Record<string, RegExp> = {
      "animal.dog": /\b(dogs?|puppy|puppies)\b/gi,
      "colour.red": /\bred\b/gi,
      "pronoun.she": /\b(she|her|herself)\b/gi,
      negation: /\b(not|no|never|nothing|nobody|none|nowhere|without|\w+n't|cannot)\b/gi,
    };
    for (const { text, spans } of sample)
      for (const [concept, words] of Object.entries(expected))
        expect(spans.filter((span) => span.concept === concept).map((span) => span.start)).toEqual(
          [...text.matchAll(words)].map((match) => match.index),
        );
  });

  test("of dialogue are what stands between quotation marks; questions end in a question mark", () => {
    for (const { text, spans } of sample) {
      const speech = spans.filter((span) => span.concept === "dialogue");
      expect(speech.map(({ start, end }) => text.slice(start, end))).toEqual(
        [...text.matchAll(/"([^"]*)"/g)].map((match) => match[1]),
      );
      for (const { concept, start, end } of spans)
        if (concept === "question") expect(text.slice(start, end)).toMatch(/^[^.?"]*\?$/);
    }
  });

  test("show every concept, and a kind of a concept always with that concept", () => {
    const seen = new Set<string>();
    const orphans: unknown[] = [];
    const parents = /^(animal|colour|food|feeling|weather|plant|object|place|time|size)\./;
    for (const { spans } of sample)
      for (const { concept, start, end } of spans) {
        seen.add(concept);
        if (!parents.test(concept)) continue;
        const parent = concept.split(".")[0];
        if (!spans.some((s) => s.concept === parent && s.start === start && s.end === end))
          orphans.push([concept, start]);
      }
    expect(orphans).toEqual([]);
    expect(CONCEPTS.map(({ name }) => name).filter((name) => !seen.has(name))).toEqual([]);
    expect(CONCEPTS.length).toBeGreaterThan(60);
  });
});

describe("the teller", () => {
  const teller = () => new Teller(new Chooser(new Rng(1)), 0);

  test("sets capitals, articles, pronouns and spans", () => {
    const s = teller();
    s.cast.O = thing("apple", "red");
    s.say('{O.a} fell. "a hour," said {O}, "is a honest thing!"');
    expect(s.text).toBe('A red apple fell. "An hour," said the apple, "is an honest thing!"');
    expect(s.spans).toContainEqual({ concept: "colour.red", start: 2, end: 5 });
    expect(s.spans).toContainEqual({ concept: "food.fruit", start: 6, end: 11 });
    expect(s.spans).toContainEqual({ concept: "dialogue", start: 19, end: 27 });
  });

  test("uses a pronoun only while one person of that gender was spoken of", () => {
    const s = teller();
    const said: string[] = [];
    for (let i = 0; i < 200; i++) {
      s.cast.A = someone("king", "he");
      s.cast.B = someone("wizard", "he");
      s.say("{A} saw {B}. {A.auto} waved.");
      said.push(s.text.slice(-16));
      s.say("the moon rose. nobody came.");
    }
    expect(new Set(said)).toEqual(new Set([" The king waved."]));
  });

  test("rejects a template with a slip in it", () => {
    expect(() => teller().say("{Nobody} came.")).toThrow("the cast has no Nobody");
    expect(() => teller().say("he saw her.")).toThrow("write {X.him} or {X.his}");
    expect(() => teller().say("(one|two came.")).toThrow("expected )");
  });
});

describe("bits", () => {
  test("add up −log2 of the probability of each choice", () => {
    const chooser = new Chooser(new Rng(0));
    const drawn = chooser.index([2, 1, 1]);
    expect(chooser.bits).toBe(drawn === 0 ? 1 : 2);
    chooser.chance(1);
    expect(chooser.bits).toBe(drawn === 0 ? 1 : 2);
    chooser.pick([1, 2, 3, 4], 1e12);
    expect(chooser.bits).toBeCloseTo(drawn === 0 ? 3 : 4, 9);
  });

  test("of a story are between 25 and 150, and 66 on average", () => {
    const bits = sample.map((story) => story.bits);
    expect(Math.min(...bits)).toBeGreaterThan(25);
    expect(Math.max(...bits)).toBeLessThan(150);
    expect(bits.reduce((sum, b) => sum + b) / bits.length).toBeCloseTo(66, -0.5);
  });
});
