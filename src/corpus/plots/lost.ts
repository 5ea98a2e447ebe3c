import {
  castAnimal,
  castFriend,
  castHero,
  castMany,
  castObject,
  COLOURS,
  setDay,
  setPlace,
  someone,
  thing,
} from "../cast.ts";
import type { Teller } from "../grammar.ts";
import { attempts, close, digress, happy, open, remember, sad, thank } from "../parts.ts";

/** Plots about what is lost, hidden or out of reach, and found. */

export function lostThing(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(
    s,
    "park",
    "beach",
    "forest",
    "garden",
    "meadow",
    "farm",
    "market",
    "hill",
  );
  setDay(s);
  castObject(s, s.chooser.pick(["toy", "clothes", "treasure"] as const));
  s.cast.spot = s.chooser.pick(place.spots);
  s.sayOne(
    "{When} {H.auto} took {H.his} {O.an} {to}.",
    "{When} {H.auto} went {to} with {H.his} (new|favourite|old) {O.an}.",
    "{When} {H.auto} had {O.a} and wanted to show it to everyone {at}.",
  );
  digress(s, place);
  s.beat();
  s.sayOne(
    "but when {H} looked (again|around), {O} was gone!",
    "after a hour of play, {H} noticed that {O} was not there (anymore|any more).",
    'suddenly {H} cried, "oh no! where is my {O.n}?"',
  );
  sad(s);
  const looked = place.spots.filter((spot) => spot !== s.cast.spot);
  attempts(s, [
    `{H.auto} looked ${looked[0]}, but {O} was not there.`,
    `{H.auto} searched ${looked[1]} and found (nothing|only a dry leaf|only an old shoe).`,
    `{H.auto} walked all the way back, but {O} was nowhere.`,
  ]);
  s.beat();
  const turn = s.chooser.index([3, 2, 2]);
  if (turn === 0) {
    castAnimal(
      s,
      place.animals.filter((kind) => kind !== "fish" && kind !== "snail"),
    );
    s.sayOne("just then {P.a} came (along|near).", "then {H} met {P.a}.");
    s.say('"(why are you sad|what are you looking for)?" asked {P}. "I lost my {O.an}," said {H}.');
    s.sayOne(
      '"I saw something {O.adj} {spot}," said {P}. "(come with me|follow me)!"',
      '"(don\'t worry|I can help you)," said {P}. "something {O.adj} is {spot}."',
    );
    s.say("{H.auto} ran to look, and there it was, {spot}!");
    thank(s, "H", "P");
    s.cast.ally = "{P}";
  } else if (turn === 1) {
    castFriend(s);
    s.say('{F} heard the crying and came to help. "let\'s look together," said {F}.');
    s.say(
      "(two pairs of eyes are better than one, and soon|after a while) {F} saw something {O.adj} {spot}. it was {O.full}!",
    );
    thank(s, "H", "F");
  } else {
    remember(s, "go back to where you had it");
    s.say(
      "{H.auto} closed {H.his} eyes and thought hard. {H.he} had been sitting {spot}! {H.auto} (ran|hurried) there, and there was {O.full}.",
    );
  }
  happy(s);
  close(s, {
    lesson: "(good friends help when something is lost|it is better to think than to cry)",
    since: "{H.auto} always kept {O.full} (close|in a safe place)",
  });
}

export function lostPet(s: Teller): void {
  castHero(s, "child");
  open(s);
  const place = setPlace(s, "park", "forest", "farm", "market", "meadow");
  setDay(s);
  const pet = castAnimal(s, ["dog", "cat", "puppy", "kitten", "rabbit", "pony"]);
  s.cast.spot = s.chooser.pick(place.spots);
  const home = s.chooser.chance(0.5);
  s.sayOne("{When} {H} and {H.his} {P.an} went {to}.", "{When} {H} was {at} with {H.his} {P.an}.");
  digress(s, place);
  s.beat();
  s.say(
    `suddenly ${pet.noun === "cat" || pet.noun === "kitten" ? "a dog barked" : "there was thunder"}, and {P} was so (afraid|frightened) that it ran away.`,
  );
  s.say('"come back!" (shouted|called) {H}, but {P} did not hear.');
  attempts(s, [
    "{H.auto} called and called, but there was no answer.",
    "{H.auto} asked a woman with a basket, but she had not seen it.",
    "{H.auto} followed small marks in the mud, but they ended at a puddle.",
  ]);
  sad(s);
  s.beat();
  s.say(
    `then {H} heard a soft sound {spot}. (what was that?|could it be?) {H.auto} looked, and there sat {P}, ${home ? "cold and wet" : "next to a frightened bird"}!`,
  );
  s.say(
    "{H.auto} (hugged|patted) {P} and (carried|took) it home. {P} got (a warm blanket|a big supper|milk and bread).",
  );
  happy(s);
  close(s, {
    lesson: "one must not give up (too soon|looking for a friend)",
    since: "{P} never ran away again",
  });
}

export function missingSheep(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.S = someone(
    s.chooser.pick(["shepherd", "farmer"]),
    s.chooser.pick(["he", "she"]),
    s.chooser.pick(["old", "tired", "friendly"]),
  );
  setDay(s, "cloudy", "windy", "cold");
  const many = castMany(s, ["lamb", "duckling", "chick", "goat", "pony", "hen"]);
  const before: Record<string, string> = { four: "three", five: "four", six: "five", seven: "six", ten: "nine" }; // prettier-ignore
  many.count = s.chooser.pick(Object.keys(before));
  const one = many.noun === "ponies" ? "pony" : many.noun.slice(0, -1);
  s.say("{When} {H.auto} helped {S.a} with {S.his} {N.n}. there were {N.count}.");
  s.say(
    `in the evening, {H} counted {N.him}: one, two, three. but at the end there were only ${before[many.count]}!`,
  );
  s.say(
    `"one ${one} is missing," said {H}. {S.auto} was (worried|very worried), because (the night was near|a storm was coming|there was a fox in the forest).`,
  );
  s.beat();
  s.say("{H.auto} took a lantern and went to look.");
  attempts(
    s,
    [
      "{H.auto} searched behind the barn, but it was not there.",
      "{H.auto} looked by the river, but there were only frogs.",
      "{H.auto} called from the top of the hill, but only the wind answered.",
      "{H.auto} looked under the hay, but only a cat was sleeping there.",
    ],
    3,
  );
  s.say(
    `then {H.he} heard a weak cry. the little ${one} had ${s.chooser.pick(["fallen into a hole", "got stuck in a bush", "lost its way in the fog"])}! {H.auto} (lifted it up|took it in {H.his} arms) and (carried|brought) it home.`,
  );
  s.beat();
  s.say(
    `"now there are ${many.count} again," said {S}. "<thanks: thank you>, {H}! without you it would have been lost."`,
  );
  close(s, { lesson: "each one counts", since: "{H.auto} counted {N} every evening" });
}

export function hideAndSeek(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  castFriend(s, "R");
  const place = setPlace(s, "garden", "forest", "farm", "barn", "meadow");
  setDay(s, "sunny", "warm", "cloudy");
  s.cast.spot = s.chooser.pick(place.spots);
  s.say(
    "{When} {H.name}, {F.name} and {R.name} played hide and seek {at}. {H.auto} closed {H.his} eyes and counted to (twenty|ten|a hundred).",
  );
  s.say(
    `"I am coming!" {H} called. {R} was easy to find, because {R.he} (giggled|sneezed) ${place.spots.find((spot) => spot !== s.cast.spot)}.`,
  );
  s.say("but where was {F}? they looked and looked, but {F} was nowhere.");
  attempts(s, [
    "{H.auto} called {F.s} name, but no one answered.",
    "{R} looked (behind every door|up and down), but found only a spider.",
    "they walked around the whole place twice.",
  ]);
  s.sayOne(
    '"we give up! come out!" shouted {R}. still nothing.',
    "the sun went down, and {H} began to worry.",
  );
  s.beat();
  s.say(
    "then {H} heard something. somebody was snoring {spot}! it was {F}, who had fallen asleep there.",
  );
  s.say(
    '"have I won?" asked {F} and (yawned|rubbed {F.his} eyes). they laughed until their tummies hurt~past_tense_verb.',
  );
  close(s, {
    lesson: "a good hiding place should not be too soft",
    since: "they called {F} the champion of hiding",
  });
}

export function kiteStuck(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "park", "hill", "meadow", "beach");
  setDay(s, "windy");
  s.cast.O = thing("kite", s.chooser.pick(COLOURS));
  const balloon = s.chooser.chance(0.25);
  if (balloon) s.entity("O").noun = "balloon";
  s.say(
    "{When} {H.auto} went {to} with {H.his} (new|big) {O.an}. {O} flew higher than the (trees|birds|roofs).",
  );
  digress(s, place);
  s.say(
    "suddenly the wind (pulled|blew) too hard. the string (broke|slipped out of {H.his} hand), and {O} got stuck in a tall tree.",
  );
  sad(s);
  attempts(s, [
    "{H.auto} jumped, but the branch was too high.",
    "{H.auto} threw a stick, but it missed {O}.",
    "{H.auto} tried to climb the tree, but the trunk was too wide.",
    "{H.auto} shook the tree, but only leaves fell down.",
  ]);
  s.beat();
  const turn = s.chooser.index([1, 1, 1]);
  if (turn === 0) {
    castAnimal(s, ["bird", "squirrel", "owl", "crow"]);
    s.say(
      '{P.a} was sitting in the tree. "(may I help|shall I help you)?" it asked. it pulled at the string with its (mouth|feet), and {O} (floated|fell) down.',
    );
    thank(s, "H", "P");
  } else if (turn === 1) {
    s.cast.S = someone("man", "he", "tall");
    s.entity("S").noun = s.chooser.pick(["farmer", "gardener", "painter", "neighbour"]);
    s.say(
      "{S.a} with a long ladder came by. {S.he} climbed up and (brought|handed) {O} back to {H}.",
    );
    thank(s, "H", "S");
  } else {
    castFriend(s);
    s.say(
      '"climb on my shoulders!" said {F}. {H.auto} climbed up, reached for the string and pulled. {O} was free!',
    );
    thank(s, "H", "F");
  }
  close(s, {
    lesson: "(one is never too proud to ask for help|together one is taller than alone)",
    since: "{H.auto} held the string with both hands",
  });
}

export function treasureMap(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  s.cast.When = "one (day|morning|rainy day),";
  s.say(
    "{When} {H.auto} found an old map (in a bottle|under the floor|in a book|in the attic). there was a red cross~ on it.",
  );
  s.say('{H.auto} showed it to {F}. "it must be a treasure!" {F} (cried|whispered|said).');
  s.sayOne(
    "they packed bread, a rope and a lantern and left at once.",
    "they took a shovel and a (rope|lantern) and followed the path on the map.",
  );
  s.beat();
  attempts(
    s,
    [
      "they crossed a narrow bridge over a deep river.",
      "they climbed a hill that was so steep that they had to hold hands.",
      "they walked through a dark forest, where owls were hooting.",
      "they came to a cave, and it was as dark as night inside.",
    ],
    3,
  );
  s.sayOne(
    '"are you afraid?" asked {F}. "a little," said {H}, "but not when you are with me."',
    "{F} wanted to turn back, but {H} took {F.his} hand.",
  );
  s.beat();
  s.cast.spot = "(under a tall oak|behind a waterfall|between two white rocks)";
  s.say(
    "at last they found the place, {spot}. they dug and dug until the shovel hit something hard. it was a chest!",
  );
  const kind = s.chooser.index([1, 1, 1]);
  if (kind === 0)
    s.say(
      'inside there was no gold, only a letter: "the real treasure is the friend who came with you." {both} looked at each other and laughed.',
    );
  else if (kind === 1)
    s.say(
      "the chest was full of (golden|silver) coins. {both} gave most of them to the (poor people|school) in the village and bought (a boat|a pony|two bikes) with the rest~.",
    );
  else
    s.say(
      "inside lay (a golden crown|a white pearl|a silver bell) and a note. the queen had lost it many years ago. {both} brought it back to the castle, and the queen gave them a feast.",
    );
  close(s, {
    lesson: "(friends are the best treasure|an adventure is better with a friend)",
    since: "{both} went on many adventures together",
  });
}
