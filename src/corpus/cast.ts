import type { Entity, Pronoun, Teller } from "./grammar.ts";
import { plural } from "./lexicon.ts";

/** Who and what can appear in a story. Lists run from common to rare: the chooser prefers early items. */
export const GIRLS = "Mia Lily Anna Emma Rosie Zoe Clara Nina Ella Ruby Lucy Molly Ivy Sara Tessa Hana Nora Maya Alma Leah Greta Olga Wanda Priya Yuki".split(" "); // prettier-ignore
export const BOYS = "Tom Ben Max Leo Sam Jack Finn Oscar Hugo Noah Theo Eli Adam Felix Otto Milo Ravi Luca Paul Erik Ivan Omar Kofi Jonas Pedro".split(" "); // prettier-ignore
const ANIMAL_NAMES = "Pip Momo Dot Bobo Fuzzy Nib Tiko Luna Coco Tufty Zuzu Button Pepper Waffle Rolo Mimi".split(" "); // prettier-ignore
const ANIMAL_KINDS = "rabbit mouse bear fox squirrel hedgehog duck frog owl turtle kitten badger puppy".split(" "); // prettier-ignore
const TRAITS =
  "kind brave curious clever cheerful shy gentle lazy quiet funny careless polite".split(" ");
export const COLOURS = "red blue green yellow white brown golden purple black pink silver".split(
  " ",
);
const SIZES = "little big small tiny large long".split(" ");

const TOYS = "ball doll kite teddy truck boat drum puzzle train top marble balloon".split(" ");
const TREASURES = "ring shell coin feather pearl bell key".split(" ");
const CLOTHES = "hat scarf coat glove boot mitten sweater sock".split(" ");
const PETS = "cat dog kitten puppy rabbit pony duck parrot goat".split(" ");

export interface Place {
  name: string;
  at: string;
  /** Where things hide here. */
  spots: string[];
  /** What one can see here, told as whole sentences. */
  sights: string[];
  animals: string[];
  outdoors: boolean;
}

// prettier-ignore
const PLACE_LIST: Place[] = [
  { name: "park", at: "in", outdoors: true, spots: ["under a bench", "behind an old oak", "in the tall grass", "beside the pond"], sights: ["children were playing on the grass", "the benches were full of people"], animals: ["dog", "squirrel", "duck", "bird"] },
  { name: "forest", at: "in", outdoors: true, spots: ["under a bush", "behind a mossy rock", "inside a hollow log", "between the mushrooms"], sights: ["the trees were so tall that their branches hid the sky", "the path was covered with brown leaves"], animals: ["fox", "owl", "rabbit", "deer", "bear"] },
  { name: "garden", at: "in", outdoors: true, spots: ["under the big leaves", "behind the tulips", "near the gate", "next to the pumpkins"], sights: ["bees were buzzing around the tulips", "the daisies were white and yellow"], animals: ["bird", "hedgehog", "snail", "cat"] },
  { name: "beach", at: "at", outdoors: true, spots: ["under the sand", "between two rocks", "behind a small boat", "near the water"], sights: ["the waves were rolling over the sand", "white birds were flying above the water"], animals: ["bird", "turtle", "dog"] },
  { name: "farm", at: "on", outdoors: true, spots: ["under the hay", "behind the barn", "inside an old bucket", "beside the fence"], sights: ["the cows were eating grass", "the hens were running around the yard"], animals: ["hen", "goat", "horse", "pig", "lamb"] },
  { name: "river", at: "by", outdoors: true, spots: ["between the stones", "under the bridge", "behind a fallen tree", "in the mud"], sights: ["the water was clear and cold", "small fish were swimming under the bridge"], animals: ["frog", "duck", "turtle", "fish"] },
  { name: "meadow", at: "in", outdoors: true, spots: ["in the tall grass", "under a yellow flower", "near a mouse hole", "behind a stone"], sights: ["the grass was full of flowers", "butterflies were dancing in the air"], animals: ["rabbit", "mouse", "sheep", "butterfly"] },
  { name: "market", at: "at", outdoors: true, spots: ["under a table", "behind a basket of apples", "between two boxes", "beside a cart"], sights: ["people were selling bread, cheese and fruit", "there were baskets of plums and cherries"], animals: ["dog", "cat", "donkey"] },
  { name: "lake", at: "by", outdoors: true, spots: ["under a boat", "between the stones", "behind a bush", "near the water"], sights: ["the lake was as smooth as glass", "two swans were floating on the water"], animals: ["duck", "swan", "frog"] },
  { name: "hill", at: "on", outdoors: true, spots: ["behind a rock", "under a lonely tree", "in a small cave", "in the tall grass"], sights: ["one could see the whole village from there", "sheep were resting in the sun"], animals: ["sheep", "goat", "rabbit"] },
  { name: "school", at: "at", outdoors: false, spots: ["under a desk", "behind the door", "on a high shelf", "inside a box of paints"], sights: ["there were pictures on every wall", "the children were drawing with pencils"], animals: ["bird", "mouse"] },
  { name: "library", at: "in", outdoors: false, spots: ["behind a row of books", "under a chair", "on the top shelf", "inside an old book"], sights: ["there were books from the floor to the roof", "everybody was reading and nobody made a sound"], animals: ["cat", "mouse"] },
  { name: "kitchen", at: "in", outdoors: false, spots: ["under the table", "behind the stove", "inside a pot", "on the top shelf"], sights: ["the soup was bubbling in a pot", "the window was open and the air smelled of bread"], animals: ["cat", "mouse"] },
  { name: "barn", at: "in", outdoors: false, spots: ["under the hay", "behind the ladder", "inside an old basket", "between two boxes"], sights: ["the horses were eating hay", "sunshine came in through the holes in the roof"], animals: ["horse", "cow", "mouse", "owl"] },
];
const PLACES = new Map(PLACE_LIST.map((place) => [place.name, place]));

/** The weather of a story: adjective of the day and sentences that agree with it. */
const WEATHERS: Record<string, string[]> = {
  sunny: ["the sun was shining and the sky was blue", "the sun was warm", "there was not one cloud in the sky"],
  windy: ["the wind was strong", "the wind shook the branches of the trees", "the wind blew leaves into the air"],
  rainy: ["rain was falling on the roofs", "there were puddles on every path", "the sky was grey and wet"],
  snowy: ["the snow was deep and white", "snowflakes were falling from the sky", "the roofs were white with snow"],
  cloudy: ["the sky was full of grey clouds", "the sun was hiding behind the clouds"],
  warm: ["the air was warm and still", "the air smelled of flowers"],
  cold: ["the air was cold", "there was frost on the windows"],
}; // prettier-ignore

const DAY_PARTS = ["morning", "day", "afternoon"];

function person(name: string, noun: string, pronoun: Pronoun): Entity {
  return { name, noun, adjectives: [], pronoun };
}

export function thing(noun: string, ...adjectives: string[]): Entity {
  return { noun, adjectives, pronoun: "it" };
}

export function someone(noun: string, pronoun: Pronoun, ...adjectives: string[]): Entity {
  return { noun, adjectives, pronoun };
}

/** H: a child two times of three, else a talking animal. */
export function castHero(s: Teller, only?: "child"): Entity {
  const girl = s.chooser.chance(0.5);
  let hero: Entity;
  if (only === "child" || s.chooser.chance(0.7)) {
    hero = person(
      s.chooser.pick(girl ? GIRLS : BOYS, 4),
      girl ? "girl" : "boy",
      girl ? "she" : "he",
    );
  } else {
    hero = person(
      s.chooser.pick(ANIMAL_NAMES, 4),
      s.chooser.pick(ANIMAL_KINDS, 4),
      girl ? "she" : "he",
    );
  }
  s.cast.H = hero;
  return hero;
}

export function isAnimal(entity: Entity): boolean {
  return ANIMAL_KINDS.includes(entity.noun);
}

/** F: a friend of the hero's kind, more often of the other sex; `both`: the two of them. */
export function castFriend(s: Teller, key = "F"): Entity {
  const hero = s.entity("H");
  const girl = s.chooser.chance(hero.pronoun === "he" ? 0.7 : 0.3);
  const pronoun = girl ? "she" : "he";
  const taken = (names: string[]) =>
    names.filter((name) =>
      Object.values(s.cast).every((e) => typeof e === "string" || e.name !== name),
    );
  let friend: Entity;
  if (isAnimal(hero)) {
    const kinds = ANIMAL_KINDS.filter((kind) => kind !== hero.noun);
    friend = person(s.chooser.pick(taken(ANIMAL_NAMES), 4), s.chooser.pick(kinds, 4), pronoun);
  } else {
    friend = person(s.chooser.pick(taken(girl ? GIRLS : BOYS), 4), girl ? "girl" : "boy", pronoun);
  }
  friend.owner = hero;
  s.cast[key] = friend;
  if (key === "F")
    s.cast.both = { noun: "friends", adjectives: [], pronoun: "they", members: [hero, friend] };
  return friend;
}

export const ELDERS: [string, Pronoun][] = [["mother", "she"], ["father", "he"], ["grandmother", "she"], ["grandfather", "he"], ["aunt", "she"], ["uncle", "he"]]; // prettier-ignore
const SIBLINGS: [string, Pronoun][] = [
  ["sister", "she"],
  ["brother", "he"],
];

/** M: an elder of the hero's family. Every further elder of the story is the same one. */
export function castElder(s: Teller, owner = "H", key = "M"): Entity {
  if (s.cast[key]) return s.entity(key);
  const [noun, pronoun] = s.chooser.pick(ELDERS, 2);
  return (s.cast[key] = { noun, pronoun, adjectives: [], owner: s.entity(owner) });
}

export function castSibling(s: Teller): Entity {
  const [noun, pronoun] = s.chooser.pick(SIBLINGS);
  return (s.cast.B = { noun, pronoun, adjectives: [], owner: s.entity("H") });
}

/** O: an object with a colour and sometimes a size. */
export function castObject(s: Teller, kind: "toy" | "treasure" | "clothes", key = "O"): Entity {
  const noun = s.chooser.pick(kind === "toy" ? TOYS : kind === "treasure" ? TREASURES : CLOTHES);
  const adjectives = [
    s.chooser.pick(kind === "treasure" ? ["golden", "silver", "white", "blue"] : COLOURS),
  ];
  if (s.chooser.chance(0.35)) adjectives.unshift(s.chooser.pick(SIZES));
  return (s.cast[key] = { noun, adjectives, pronoun: "it" });
}

const COATS = "brown white black grey".split(" ");

/** P: an animal without a name of its own, from `kinds`. */
export function castAnimal(s: Teller, kinds: readonly string[] = PETS, key = "P"): Entity {
  const hero = s.cast.H as Entity | undefined;
  const free = kinds.filter((kind) => kind !== hero?.noun && kind !== (s.cast.F as Entity)?.noun);
  const noun = s.chooser.pick(free.length ? free : PETS);
  const adjectives = [s.chooser.pick(["small", "little", "big", "young", "old"])];
  if (
    /dog|cat|rabbit|mouse|horse|goat|puppy|kitten|hen|pony|duck|bird/.test(noun) &&
    s.chooser.chance(0.5)
  )
    adjectives.push(s.chooser.pick(COATS));
  return (s.cast[key] = { noun, adjectives, pronoun: "it" });
}

/** N: some things or animals of one kind, counted. */
export function castMany(s: Teller, nouns: readonly string[], key = "N"): Entity {
  const count = s.chooser.pick("three four two five six seven ten".split(" "));
  return (s.cast[key] = {
    noun: plural(s.chooser.pick(nouns)),
    adjectives: [],
    pronoun: "they",
    count,
  });
}

/** {place}, {at}, {to} and {spot}: where it happens. */
export function setPlace(s: Teller, ...names: string[]): Place {
  const place = PLACES.get(s.chooser.pick(names))!;
  s.cast.place = `the ${place.name}`;
  s.cast.at = `${place.at} the ${place.name}`;
  s.cast.to = `to the ${place.name}`;
  return place;
}

/** {When}: a fronted time phrase with the day's weather, and a later {sky} that agrees with it. */
export function setDay(s: Teller, ...weathers: string[]): string {
  const weather = s.chooser.pick(
    weathers.length ? weathers : ["sunny", "warm", "windy", "cloudy", "cold"],
  );
  const part = s.chooser.pick(DAY_PARTS);
  const forms = [
    `one ${weather} ${part},`,
    `on a ${weather} ${part},`,
    `early one ${weather} morning,`,
  ];
  const told = s.chooser.chance(0.25);
  s.cast.When = told
    ? `one ${part}, when ${s.chooser.pick(WEATHERS[weather])},`
    : s.chooser.pick(forms, 2);
  s.cast.weatherTold = told ? "yes" : "";
  s.cast.weather = weather;
  return weather;
}

/** A sentence about the day's weather. */
export function tellWeather(s: Teller): void {
  const weather = s.cast.weather as string | undefined;
  if (weather && !s.cast.weatherTold) s.say(`${s.chooser.pick(WEATHERS[weather])}.`);
}

export function trait(s: Teller): string {
  return s.chooser.pick(TRAITS, 4);
}
