import type { Rng } from "../rng.ts";
import { lookUp } from "./lexicon.ts";

/** A piece of a text and the concept it shows; UTF-16 offsets, `end` exclusive. */
export interface Span {
  concept: string;
  start: number;
  end: number;
}

export type Pronoun = "he" | "she" | "it" | "they";

/** Somebody or something a story speaks of. What is said of it here stays true for the whole story. */
export interface Entity {
  /** Proper name; without one the entity is called "the" + noun, or "his" + noun when it has an owner. */
  name?: string;
  noun: string;
  /** In the order in which they are spoken: size, colour. */
  adjectives: string[];
  pronoun: Pronoun;
  /** "his mother": a role is spoken with the owner's possessive; so is a new friend. */
  owner?: Entity;
  /** Members of a group such as "Tom and Mia". */
  members?: Entity[];
  /** "three ducks": the number word of a plural entity. */
  count?: string;
  /** Set once the story has introduced it by name. */
  known?: boolean;
}

/** Every random choice of a story goes through one chooser, which adds up its −log2 probability. */
export class Chooser {
  bits = 0;
  readonly #rng: Rng;

  constructor(rng: Rng) {
    this.#rng = rng;
  }

  /** An index drawn in proportion to `weights`. */
  index(weights: readonly number[]): number {
    let total = 0;
    for (const weight of weights) total += weight;
    let draw = this.#rng.uniform() * total;
    let i = 0;
    while (i < weights.length - 1 && draw >= weights[i]) draw -= weights[i++];
    this.bits -= Math.log2(weights[i] / total);
    return i;
  }

  /** An item with weight 1 / (rank + flatness): early items are likelier, less so the flatter. */
  pick<T>(items: readonly T[], flatness = 5): T {
    return items[this.index(items.map((_, rank) => 1 / (rank + flatness)))];
  }

  chance(probability: number): boolean {
    return this.index([probability, 1 - probability]) === 0;
  }
}

type Node =
  | { type: "word"; text: string; concepts: readonly string[] }
  | { type: "mark"; text: string }
  | { type: "quote" }
  | { type: "slot"; key: string; form: string }
  | { type: "choice"; options: Node[][]; weights: number[] }
  | { type: "region"; concepts: string[]; nodes: Node[] };

const parsed = new Map<string, Node[]>();

/**
 * Templates are lower-case English with
 *   {H} {H.he} {H.a}    slots filled from the cast (see Teller),
 *   (x|y|z)             choices with weights 1/2, 1/3, 1/4, ... (normalised), or (3*x|y) to set them,
 *   <concept, c: text>  a region that carries concepts,
 *   word~concept        a word given a concept beyond its lexicon entry (underscores for spaces),
 *   word~               a word without its lexicon entry,
 *   "..."               direct speech.
 * Every word is looked up in the lexicon, here, where its sense is known: spans never come from
 * matching finished text. `a` becomes `an` by the sound that follows; sentences get their capital.
 */
export function parse(template: string): Node[] {
  const known = parsed.get(template);
  if (known) return known;
  let at = 0;
  const fail = (what: string): never => {
    throw new Error(`template "${template}" at ${at}: ${what}`);
  };
  const sequence = (stops: string): Node[] => {
    const nodes: Node[] = [];
    while (at < template.length && !stops.includes(template[at])) {
      const ch = template[at];
      if (ch === " ") at++;
      else if (ch === '"') {
        nodes.push({ type: "quote" });
        at++;
      } else if (",.!?;:".includes(ch)) {
        nodes.push({ type: "mark", text: ch });
        at++;
      } else if (ch === "{") {
        const end = template.indexOf("}", at);
        const [key, form = ""] = template.slice(at + 1, end).split(".");
        nodes.push({ type: "slot", key, form });
        at = end + 1;
      } else if (ch === "(") {
        const options: Node[][] = [];
        const weights: number[] = [];
        do {
          at++;
          const weight = /^(\d+)\*/.exec(template.slice(at));
          if (weight) at += weight[0].length;
          weights.push(weight ? Number(weight[1]) : 1 / (options.length + 2));
          options.push(sequence("|)"));
        } while (template[at] === "|");
        if (template[at] !== ")") fail("expected )");
        at++;
        nodes.push({ type: "choice", options, weights });
      } else if (ch === "<") {
        const colon = template.indexOf(":", at);
        const concepts = template.slice(at + 1, colon).split(/, */);
        at = colon + 1;
        const inner = sequence(">");
        if (template[at] !== ">") fail("expected >");
        at++;
        nodes.push({ type: "region", concepts, nodes: inner });
      } else {
        const match = /^([A-Za-z][A-Za-z'-]*)(~(?:[a-z_]+(?:\.[a-z]+)?)?)?/.exec(
          template.slice(at),
        );
        if (!match) return fail(`unexpected ${ch}`);
        at += match[0].length;
        const [, text, mark] = match;
        if (text === "her") fail("write {X.him} or {X.his}, so that the sense of her is known");
        let concepts = mark === "~" ? [] : lookUp(text);
        if (mark && mark !== "~") concepts = [...concepts, mark.slice(1).replaceAll("_", " ")];
        nodes.push({ type: "word", text, concepts });
      }
    }
    return nodes;
  };
  const nodes = sequence("");
  if (at < template.length) fail("unexpected end");
  parsed.set(template, nodes);
  return nodes;
}

const FORMS: Record<Pronoun, Record<string, string>> = {
  he: { he: "he", him: "him", his: "his", self: "himself", was: "was", is: "is", has: "has" },
  she: { he: "she", him: "her", his: "her", self: "herself", was: "was", is: "is", has: "has" },
  it: { he: "it", him: "it", his: "its", self: "itself", was: "was", is: "is", has: "has" },
  they: { he: "they", him: "them", his: "their", self: "themselves", was: "were", is: "are", has: "have" }, // prettier-ignore
};

/** Writes one story: keeps the cast, the text, the spans, and who was spoken of last. */
export class Teller {
  readonly chooser: Chooser;
  readonly spans: Span[] = [];
  /** What slots refer to: entities, or templates that are told in place. */
  readonly cast: Record<string, Entity | string> = {};
  text = "";
  #capital = true;
  #quoteStart = -1;
  /** "Yes," said Tom, "we can": speech that was broken off by its tag goes on in lower case. */
  #speechGoesOn = false;
  #sentenceStart = 0;
  #article = false;
  #sentence = 0;
  #openRegions: { start: number }[] = [];
  #lastMention = new Map<Entity, number>();
  #breakWanted = false;
  readonly #breakChance: number;

  /** `breakChance`: probability of a paragraph break at each beat. */
  constructor(chooser: Chooser, breakChance: number) {
    this.chooser = chooser;
    this.#breakChance = breakChance;
  }

  /** A point where a new paragraph may begin. */
  beat(): void {
    if (this.text !== "" && this.#breakChance > 0 && !this.#breakWanted)
      this.#breakWanted = this.chooser.chance(this.#breakChance);
  }

  /** Tells one or more whole sentences. */
  say(template: string): void {
    if (this.#breakWanted) {
      this.text += "\n\n";
      this.#breakWanted = false;
      this.#lastMention.clear();
    }
    this.#capital = true;
    this.#speechGoesOn = false;
    this.#tell(parse(template));
  }

  /** One of the templates, early ones likelier. */
  sayOne(...templates: string[]): void {
    this.say(this.chooser.pick(templates));
  }

  entity(key: string): Entity {
    const value = this.cast[key];
    if (value === undefined || typeof value === "string") throw new Error(`no entity ${key}`);
    return value;
  }

  #tell(nodes: readonly Node[]): void {
    for (const node of nodes) {
      if (node.type === "word") this.#word(node.text, node.concepts);
      else if (node.type === "mark") this.#mark(node.text);
      else if (node.type === "quote") this.#quote();
      else if (node.type === "choice") this.#tell(node.options[this.chooser.index(node.weights)]);
      else if (node.type === "slot") this.#slot(node.key, node.form);
      else {
        const region = { start: -1 };
        this.#openRegions.push(region);
        this.#tell(node.nodes);
        this.#openRegions.splice(this.#openRegions.indexOf(region), 1);
        for (const concept of node.concepts) this.#span(concept, region.start, this.text.length);
      }
    }
  }

  #span(concept: string, start: number, end: number): void {
    this.spans.push({ concept, start, end });
  }

  #begin(): number {
    if (this.text !== "" && !this.text.endsWith("\n") && this.text.length !== this.#quoteStart)
      this.text += " ";
    const start = this.text.length;
    for (const region of this.#openRegions) if (region.start < 0) region.start = start;
    return start;
  }

  #word(text: string, concepts: readonly string[], suffix = ""): void {
    if (text === "a" && !this.#article && suffix === "") {
      this.#article = true;
      return;
    }
    if (this.#article) {
      this.#article = false;
      // No word that begins like "one" or "use" ever follows "a".
      this.#word(/^([aeiou]|ho(ur|nest))/i.test(text) ? "an" : "a", [], "\0");
    }
    const start = this.#begin();
    if (this.#capital) {
      this.#sentenceStart = start;
      text = text[0].toUpperCase() + text.slice(1);
      this.#capital = false;
    }
    this.text += text;
    for (const concept of concepts) this.#span(concept, start, this.text.length);
    if (suffix === "'s") {
      this.text += suffix;
      this.#span("possessive", start, this.text.length);
    }
  }

  #mark(text: string): void {
    this.text += text;
    if (text === "?") this.#span("question", this.#sentenceStart, this.text.length);
    if (text === "!") this.#span("exclamation", this.#sentenceStart, this.text.length);
    if (".!?".includes(text)) {
      this.#capital = true;
      if (this.#quoteStart < 0) {
        this.#sentence++;
        this.#speechGoesOn = false;
      }
    }
  }

  /** After speech that ends in ! ? or a comma the sentence goes on ("Look!" said Tom); after a full stop a new one begins. */
  #quote(): void {
    if (this.#quoteStart < 0) {
      this.#begin();
      this.text += '"';
      this.#quoteStart = this.text.length;
      this.#capital = !this.#speechGoesOn;
      if (this.#capital) this.#sentenceStart = this.text.length;
    } else {
      this.#span("dialogue", this.#quoteStart, this.text.length);
      this.#quoteStart = -1;
      this.#speechGoesOn = this.text.endsWith(",");
      this.#capital = this.text.endsWith(".");
      if (this.#capital) this.#sentence++;
      this.text += '"';
    }
  }

  /**
   * Forms: none = the usual reference, `auto`/`autohim` = a pronoun where it is clear who is meant,
   * he him his self was is has, `s` = possessive, `a` = "a small red ball", `full` = "the small red ball",
   * `an` = "small red ball", `n` = the noun alone, `adj` = the last adjective,
   * `name`, `kind` = the noun of a named character, `call` = as one speaks to somebody,
   * `count` = "three ducks".
   */
  #slot(key: string, form: string): void {
    const value = this.cast[key];
    if (typeof value === "string") return this.#tell(parse(value));
    if (value === undefined) throw new Error(`the cast has no ${key}`);
    const pronouns = FORMS[value.pronoun];
    if (form === "auto" || form === "autohim") {
      if (this.#quoteStart < 0 && this.#isClear(value) && this.chooser.chance(0.8))
        return this.#pronoun(value, form === "auto" ? "he" : "him");
      return this.#refer(value, "");
    }
    if (form === "was" || form === "is" || form === "has") {
      this.#word(pronouns[form], lookUp(pronouns[form]));
    } else if (form in pronouns) this.#pronoun(value, form);
    else if (form === "s" || form === "") this.#refer(value, form === "s" ? "'s" : "");
    else {
      this.#mentioned(value);
      if (form === "a") this.#word("a", []);
      if (form === "full") this.#word("the", []);
      if (form === "name") {
        value.known = true;
        return this.#word(value.name!, ["person.name"]);
      }
      if (form === "call") {
        if (value.name) return this.#word(value.name, ["person.name"]);
        this.#word("dear", []);
      }
      if (form === "adj")
        return this.#word(value.adjectives.at(-1)!, lookUp(value.adjectives.at(-1)!));
      if (form === "count") this.#word(value.count!, lookUp(value.count!));
      if (form === "a" || form === "full" || form === "an" || form === "count")
        for (const adjective of value.adjectives) this.#word(adjective, lookUp(adjective));
      this.#word(value.noun, lookUp(value.noun));
    }
  }

  #pronoun(entity: Entity, form: string): void {
    this.#mentioned(entity);
    const concepts = [`pronoun.${entity.pronoun}`, "pronoun"];
    if (form === "his") concepts.push("possessive");
    if (form === "self") concepts.push("reflexive");
    this.#word(FORMS[entity.pronoun][form], concepts);
  }

  #refer(entity: Entity, suffix: string): void {
    if (entity.members) {
      entity.members.forEach((member, i) => {
        if (i > 0) this.#word("and", []);
        else if (this.#quoteStart < 0) member.known = true;
        this.#refer(member, i === entity.members!.length - 1 ? suffix : "");
      });
    } else if (entity.name !== undefined) {
      if (!entity.known && this.#quoteStart < 0) this.#introduce(entity, suffix);
      this.#word(entity.name, ["person.name"], suffix);
    } else {
      if (entity.owner) this.#pronoun(entity.owner, "his");
      else this.#word("the", []);
      this.#word(entity.noun, lookUp(entity.noun), suffix);
    }
    this.#mentioned(entity);
  }

  /** Before a name that was not heard yet: "a girl named (Mia)", "her friend (Tom)", or nothing. */
  #introduce(entity: Entity, suffix: string): void {
    entity.known = true;
    if (entity.owner) {
      this.#pronoun(entity.owner, "his");
      this.#word("friend", lookUp("friend"));
    } else if (suffix === "" && this.chooser.chance(0.6)) {
      this.#word("a", []);
      this.#word(entity.noun, lookUp(entity.noun));
      this.#word("named", []);
    }
  }

  #mentioned(entity: Entity): void {
    if (this.#quoteStart >= 0) return;
    this.#lastMention.set(entity, this.#sentence);
    for (const member of entity.members ?? []) this.#lastMention.set(member, this.#sentence);
  }

  /** A pronoun is clear when its entity was mentioned in this or the last sentence and no rival was. */
  #isClear(entity: Entity): boolean {
    const last = this.#lastMention.get(entity);
    if (last === undefined || last < this.#sentence - 1) return false;
    for (const [other, sentence] of this.#lastMention)
      if (other !== entity && other.pronoun === entity.pronoun && sentence >= this.#sentence - 1)
        return false;
    return true;
  }
}
