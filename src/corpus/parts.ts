import {
  castElder,
  castMany,
  COLOURS,
  isAnimal,
  someone,
  tellWeather,
  trait,
  type Place,
} from "./cast.ts";
import type { Teller } from "./grammar.ts";

/** The parts of a story that any plot can use. */

const LOVES = [
  "to sing", "to climb trees", "to look at the stars", "to collect shells", "to listen to stories",
  "to draw pictures", "to run in the rain", "to ask questions", "to eat pancakes with honey",
  "to count the birds", "to dance in the kitchen", "to build things",
]; // prettier-ignore

const CHILD_HOMES = ["a small house near the forest", "a village by the sea", "a tall house with a green door", "a big town", "a little house on a hill", "a white house with many animals"]; // prettier-ignore
const ANIMAL_HOMES = ["a hole under an old oak", "a cosy nest in the forest", "a small house made of leaves", "a little house by the river", "a meadow full of flowers"]; // prettier-ignore

/** Introduces the hero, or leaves that to the plot's first sentence (a third of the stories). */
export function open(s: Teller): void {
  const hero = s.entity("H");
  const kind = s.chooser.index([5, 2, 2, 1, 1, 3]);
  if (kind === 5) return;
  const character = trait(s);
  const home = () => s.chooser.pick(isAnimal(hero) ? ANIMAL_HOMES : CHILD_HOMES);
  const love = () => s.chooser.pick(LOVES);
  if (kind === 0) {
    s.say(`<story opening: (once upon a time,|long ago,|once,) there (was|lived) a ${character} {H.kind} named {H.name}.>`); // prettier-ignore
    hero.known = true;
    if (s.chooser.chance(0.5)) s.say(`{H.auto} lived in ${home()}.`);
    if (s.chooser.chance(0.5)) s.say(`more than anything, {H.auto} (loved|liked) ${love()}.`);
  } else if (kind === 1) {
    hero.known = true;
    s.say(`<story opening: {H} was a ${character} {H.kind} who (loved|liked) ${love()}.>`);
  } else if (kind === 2) {
    hero.known = true;
    s.say(
      `<story opening: in ${home()} lived a ${character} {H.kind}. {H.his} name was {H.name}.>`,
    );
  } else if (kind === 3) {
    hero.known = true;
    s.say(`<story opening: who was the (2*most ${character} {H.kind} of all|most ${character} {H.kind} in the world)? it was {H}, of course.>`); // prettier-ignore
  } else {
    hero.known = true;
    castElder(s);
    s.say(`<story opening: "(wake up|get up|come here), {H}!" called {M}.> {H} was a ${character} {H.kind} who (loved|liked) ${love()}.`); // prettier-ignore
  }
  facts(s);
  s.beat();
}

const FAVOURITES = ["pancakes", "soup", "strawberries", "cheese", "cookies", "apples", "honey", "carrots", "cherries", "rice"]; // prettier-ignore
const WORN = ["hat", "scarf", "coat", "sweater", "dress", "shirt", "cape"];

/** What else there is to know of the hero: up to two things. */
function facts(s: Teller): void {
  const first = s.chooser.index([3, 1, 1, 1, 1]);
  fact(s, first);
  const second = first > 0 && s.chooser.chance(0.4) ? s.chooser.index([1, 1, 1, 1, 1]) : 0;
  if (second !== first) fact(s, second);
}

function fact(s: Teller, told: number): void {
  const colour = () => s.chooser.pick(COLOURS);
  if (told === 1) s.say(`{H.auto} always wore a ${s.chooser.pick(["", "long ", "warm ", "little "])}${colour()} ${s.chooser.pick(WORN.filter((worn) => worn !== "dress" || s.entity("H").pronoun === "she"))}.`); // prettier-ignore
  if (told === 2) s.say(`{H.his} favourite colour was ${colour()}, and {H.his} favourite food was ${s.chooser.pick(FAVOURITES)}.`); // prettier-ignore
  if (told === 3) s.say(`{H.auto} had (one brother|one sister|two brothers|two sisters|three brothers|no brothers or sisters)${s.chooser.pick([".", " and a hundred questions every day."])}`); // prettier-ignore
  if (told === 4) s.say("{H.auto} was not (2*very |)(tall|big|strong|fast), but {H.he} (was never afraid to ask|could hear a mouse from far away|had a big heart|could whistle better than anyone|had the (loudest|nicest) laugh in the street)."); // prettier-ignore
}

const PASSERS = [
  "farmer",
  "baker",
  "sailor",
  "gardener",
  "painter",
  "shepherd",
  "teacher",
  "doctor",
];
const SNACKS = [
  "a pear",
  "an apple",
  "a bun",
  "a cookie",
  "half of a sandwich",
  "a plum",
  "some nuts",
  "a banana",
];

/** Small things seen, heard, met and eaten, which have no part in the plot. */
function aside(s: Teller): void {
  const kind = s.chooser.index([3, 3, 2, 2]);
  if (kind === 0) {
    castMany(s, ["bird", "butterfly", "bee", "squirrel", "snail", "duck"], "C");
    s.entity("C").adjectives = [s.chooser.pick(["little", "white", "brown", "fat", "noisy", "merry"])];
    s.sayOne(
      "{C.count} {C.was} (playing|resting|sitting) (in the sun|near the path|on a wall), and {H} counted {C.him} (twice|aloud).",
      "on the way {H} saw {C.count} and (waved at {C.him}|stopped to look at {C.him}|said <greeting: hello>).",
    );
  } else if (kind === 1) {
    s.cast.X = someone(s.chooser.pick(PASSERS), s.chooser.pick(["he", "she"]), s.chooser.pick(["old", "young", "friendly", "tall", "busy"])); // prettier-ignore
    s.cast.load = `(a basket of ${s.chooser.pick(FAVOURITES.filter((food) => food !== "soup" && food !== "honey"))}|a (${s.chooser.pick(COLOURS.slice(0, 6))}|heavy) (bag|umbrella|box)|a sleepy (cat|dog|goat))`; // prettier-ignore
    s.say("{X.a} with {load} came (by|along). \"<greeting: (hello|good day)>, {H}!\" (said|called) {X}. \"<greeting: (hello|good day)>!\" {H} (said|answered)."); // prettier-ignore
  } else if (kind === 2)
    s.say(`{H.auto} took ${s.chooser.pick(SNACKS)} (from|out of) {H.his} (bag|pocket|basket) and began to eat.`); // prettier-ignore
  else
    s.say("somewhere a (dog|bird|bell|cow|child) could be heard(|, far away|, not far away)."); // prettier-ignore
}

/** At most one aside: the weather, the sights of the place, something counted, a thought. */
export function digress(s: Teller, place?: Place): void {
  const kind = s.chooser.index([1, 2, 2, place?.outdoors ? 4 : 0, 1]);
  if (kind === 1 && s.cast.weather && place?.outdoors) tellWeather(s);
  if (kind === 2 && place) s.say(`${s.chooser.pick(place.sights)}.`);
  if (kind === 3) aside(s);
  if (kind === 4)
    s.sayOne(
      '"what a (wonderful|lovely|fine) day," {H.auto} thought.',
      "{H} hummed a (little|funny) (song|tune) on the way.",
    );
}

/** Something an elder once said: it will matter in a moment. */
export function remember(s: Teller, advice: string): void {
  castElder(s);
  s.sayOne(
    `<memory: then {H} remembered what {M} (had said|always said): "${advice}.">`,
    `<memory: {H} thought of {M}, who (often said|had told {H.him}), "${advice}.">`,
  );
}

export function sad(s: Teller, key = "H"): void {
  s.sayOne(
    `{${key}.auto} {${key}.was} very sad.`,
    `{${key}.auto} began to cry.`,
    `tears rolled down {${key}.his} (face|nose).`,
    `{${key}.auto} felt so sad that {${key}.he} could not (speak|eat).`,
    `{${key}.auto} sat down and (cried|sighed).`,
  );
}

export function happy(s: Teller, key = "H"): void {
  s.sayOne(
    `{${key}.auto} {${key}.was} (so happy|very glad).`,
    `{${key}.auto} (smiled|laughed) and (clapped {${key}.his} hands|jumped for joy|danced around).`,
    `{${key}.auto} felt (happy|proud and happy|warm inside).`,
    `{${key}.auto} had never been so happy.`,
  );
}

/** `from` thanks `to`. */
export function thank(s: Teller, from: string, to: string): void {
  s.sayOne(
    `"<thanks: thank you(| so much| very much)>, {${to}.call}!" said {${from}}.`,
    `{${from}} (hugged|thanked) {${to}}.`,
    `"<thanks: thank you>," {${from}} said(| with a smile). "you are (very kind|a good friend|so clever)."`,
  );
}

/** The family at home hears the tale, or the day ends, or the story is over; about half the time with what was learned. */
export function close(s: Teller, ending: { lesson?: string; since?: string; home?: false }): void {
  s.beat();
  const kind = s.chooser.index([
    ending.since ? 3 : 0,
    ending.home === false ? 0 : 2,
    2,
    ending.lesson ? 3 : 0,
    1,
  ]);
  if (kind === 0) s.say(`<story ending: from that day on, ${ending.since}.>`);
  else if (kind === 1) {
    castElder(s);
    s.sayOne(
      "<story ending: when {H} came home, {H.he} told {M} (everything|the whole story). {M} (smiled|laughed) and gave {H.him} a (big hug|hug|bowl of warm soup|piece of cake).>",
      '<story ending: "what did you do today?" asked {M} at (dinner|supper|bedtime). {H} had a lot to tell.>',
    );
  } else if (kind === 2)
    s.sayOne(
      "<story ending: that night, {H} (slept well|fell asleep with a smile|had sweet dreams).>",
      "<story ending: when the moon rose, {H} was already asleep.>",
      "<story ending: in the evening, {H} was tired but happy.>",
    );
  else if (kind === 3)
    s.sayOne(
      `<story ending, moral: {H} had learned that ${ending.lesson}.>`,
      `<story ending, moral: and so {H} learned (a lesson|something): ${ending.lesson}.>`,
      `<story ending, moral: now {H} knew that ${ending.lesson}.>`,
    );
  else
    s.sayOne(
      "<story ending: it was (the best day of the year|a day to remember).>",
      "<story ending: the end.>",
    );
  if (kind !== 1 && kind !== 2 && s.chooser.chance(0.4)) evening(s);
  if (kind !== 4 && s.chooser.chance(0.12)) s.say("<story ending: the end.>");
}

const DREAMS = ["a ship with golden sails", "a talking moon", "a mountain of pancakes", "a dancing bear", "a castle in the clouds", "a very small elephant", "a river of honey", "flying over the sea"]; // prettier-ignore
const DISHES = ["was soup", "were pancakes", "were potatoes with butter", "was bread and cheese", "was rice with peas", "was pie", "were eggs"]; // prettier-ignore

/** How the day went on after the story: what was eaten, what was dreamed. */
function evening(s: Teller): void {
  if (s.chooser.chance(0.5))
    s.say(`<story ending: for (dinner|supper) there ${s.chooser.pick(DISHES)}, and {H} ate (two plates|three plates|more than ever).>`); // prettier-ignore
  else s.say(`<story ending: that night {H} dreamed of ${s.chooser.pick(DREAMS)}.>`);
}

/** Tries that fail, each different, before the turn. */
export function attempts(s: Teller, tries: readonly string[], most = 2): void {
  const left = [...tries];
  const count = 1 + s.chooser.index(most === 2 ? [1, 1] : [1, 1, 1]);
  for (let i = 0; i < count && left.length > 0; i++) {
    const one = s.chooser.pick(left);
    left.splice(left.indexOf(one), 1);
    s.say((i === 0 ? s.chooser.pick(["", "first, ", "at first, "]) : s.chooser.pick(["then ", "next, ", "after that, "])) + one); // prettier-ignore
  }
}
