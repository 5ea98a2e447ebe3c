import { Rng } from "../rng.ts";
import { Chooser, Teller, type Span } from "./grammar.ts";
import * as animals from "./plots/animals.ts";
import * as friends from "./plots/friends.ts";
import * as home from "./plots/home.ts";
import * as journeys from "./plots/journeys.ts";
import * as lost from "./plots/lost.ts";
import * as wonders from "./plots/wonders.ts";

/**
 * The built-in corpus: an endless supply of short stories in which every span's concepts are known.
 * Nothing here comes from another text. A story is a pure function of (seed, split, index).
 */
export { CONCEPTS, type Concept } from "./concepts.ts";
export type { Span } from "./grammar.ts";

export type Split = "train" | "validation" | "test";

export interface Story {
  /** "train/0/17": split, seed, index. */
  id: string;
  text: string;
  /** Sorted by start, then end; UTF-16 offsets into `text`, `end` exclusive. */
  spans: Span[];
  /**
   * −log2 probability of the choices that made this story. Different choices can give one text, so
   * the mean over stories is an upper bound on the entropy of a story in bits.
   */
  bits: number;
}

/** In an order that may not change: which plot a story has is drawn from it, early ones a little likelier. */
const PLOTS: ((s: Teller) => void)[] = [
  home.babyCry, home.brokenPot, friends.countMarbles, friends.gift, lost.kiteStuck, journeys.library, lost.lostThing, home.lostTooth, wonders.magicThing, home.mendToy, home.paintFence, friends.shareToy, lost.treasureMap, animals.bigFish, animals.bigVegetable, journeys.boatTrip, animals.catInTree, animals.dogFollows, animals.hurtBird, lost.lostPet, lost.missingSheep, animals.picnic, home.plantSeed, animals.snowman, home.storm, home.bakeCake, friends.brokenBridge, friends.brothers, journeys.camping, wonders.dragon, journeys.errand, home.greedy, lost.hideAndSeek, journeys.learnSkill, friends.loudDrum, friends.moving, friends.newAtSchool, journeys.race, wonders.robot, wonders.sadKing, friends.sickFriend, wonders.star, friends.surpriseParty, journeys.trainTrip,
]; // prettier-ignore

/** Shares of the space of all texts, in hundredths. */
const SPLITS: Record<Split, [number, number]> = {
  train: [0, 80],
  validation: [80, 90],
  test: [90, 100],
};

/** A story from one stream of random numbers, of whatever split. */
function tell(rng: Rng): Teller {
  const chooser = new Chooser(rng);
  const teller = new Teller(chooser, chooser.chance(0.3) ? 0 : 0.6);
  chooser.pick(PLOTS, PLOTS.length)(teller);
  return teller;
}

/**
 * Story `index` of a split. Which split a text may be in is a function of the text alone (its hash),
 * so no text is ever in two splits, whatever the seeds. Candidates of (seed, split, index) are tried
 * in order: 1.25 on average for train, 10 for validation and for test.
 */
export function storyAt(split: Split, index: number, seed = 0): Story {
  const [from, to] = SPLITS[split];
  for (let attempt = 0; ; attempt++) {
    const { text, spans, chooser } = tell(new Rng(seed, split, index, attempt));
    const share = hash(text) % 100;
    if (share < from || share >= to) continue;
    return { id: `${split}/${seed}/${index}`, text, spans: tidy(spans), bits: chooser.bits };
  }
}

/** The stories of a split, without end, from story `start` on. */
export function* stories(
  split: Split,
  { seed = 0, start = 0 }: { seed?: number; start?: number } = {},
): Generator<Story> {
  for (let index = start; ; index++) yield storyAt(split, index, seed);
}

/** Sorted, without repetitions: a word may carry a concept from its entry and from its slot. */
function tidy(spans: Span[]): Span[] {
  spans.sort((a, b) => a.start - b.start || a.end - b.end || (a.concept < b.concept ? -1 : a.concept > b.concept ? 1 : 0)); // prettier-ignore
  return spans.filter((span, i) => {
    const last = spans[i - 1];
    return !last || last.start !== span.start || last.end !== span.end || last.concept !== span.concept; // prettier-ignore
  });
}

/** FNV-1a over UTF-16 units, with a final mix so that its remainder by 100 is even. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 15), 0x735a2d97);
  return (h ^ (h >>> 15)) >>> 0;
}
