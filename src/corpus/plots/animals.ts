import {
  castAnimal,
  castElder,
  castFriend,
  castHero,
  COLOURS,
  setDay,
  setPlace,
  someone,
  thing,
} from "../cast.ts";
import type { Teller } from "../grammar.ts";
import { attempts, close, digress, happy, open, sad } from "../parts.ts";

/** Plots about animals and nature. */

export function catInTree(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "garden", "park", "farm");
  setDay(s);
  castAnimal(s, ["kitten", "cat", "squirrel", "monkey"]);
  castFriend(s);
  s.say(
    "{When} {both} were {at} when they heard a (sad|tiny|strange) voice. {P.a} was sitting (high up|at the top) in a tree and could not come down.",
  );
  digress(s, place);
  attempts(s, [
    "{H.auto} called {P}, but it only held the branch more tightly~.",
    "{F} put~ a bowl of milk under the tree, but {P} did not move.",
    "{H.auto} climbed on a chair, but the chair was too low.",
    "they threw a rope, but {P} was afraid of it.",
  ]);
  s.say('"(it is|you are) not alone," {H} said (softly|gently). "we will help you."');
  s.beat();
  s.sayOne(
    "{F} ran to get a ladder, and {H} held it while {F} climbed.",
    "they made a pile of hay under the tree so that {P} could jump.",
  );
  s.sayOne(
    "at last {P} was on the ground again, safe and well.",
    "slowly, very slowly, {P} came down. it was saved!",
  );
  s.sayOne(
    "it rubbed its head on {H.s} leg.",
    "it looked at them once more and ran home.",
    "it made a happy sound and followed them home.",
  );
  happy(s, "both");
  close(s, {
    lesson: "even the smallest animal (needs|may need) a friend",
    since: "{P} came to visit {both} (every day|in the afternoon)",
  });
}

export function hurtBird(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "garden", "forest", "meadow", "hill");
  setDay(s, "cold", "windy", "snowy");
  castAnimal(s, ["bird", "owl", "robin", "duckling", "crow"]);
  const part = s.chooser.pick(["wing", "leg", "foot"]);
  s.say(
    "{When} {H.auto} found {P.a} " +
      s.chooser.pick(place.spots) +
      `. its ${part} was hurt~, and it could not ${part === "wing" ? "fly" : "walk"}.`,
  );
  s.sayOne('"you poor thing," said {H}. "don\'t be afraid."', "{P} was shaking with (cold|fear).");
  s.say(
    "{H.auto} wrapped it in {H.his} (scarf|coat) and carried it home. {H.he} made a bed for it in a (box|basket) full of hay.",
  );
  s.beat();
  castElder(s);
  s.say(
    '"it needs rest, water and (seeds|bread)," said {M}. so~cause {H} fed it every morning and every evening.',
  );
  s.sayOne(
    "on the first day it slept. on the second day it ate a little. on the third day it (sang|opened its eyes wide).",
    "day after day, it grew stronger.",
  );
  s.say(
    `after two weeks, {P} could ${part === "wing" ? "spread~ its wings" : "hop on both feet"} again. {H.auto} knew that it was time to say <farewell: goodbye>.`,
  );
  s.beat();
  s.say(
    "{H.auto} opened the window. {P} looked back once, then it flew into the sky. {H.auto} was sad and happy at the same time.",
  );
  s.sayOne(
    "but when spring came, there was a song at the window. {P} had come back!",
    "a week later there was a (blue feather|red berry) at the window: a gift from {P}.",
  );
  close(s, {
    lesson: "to love somebody is also to let them go",
    since: "{P} sang at {H.s} window each spring",
    home: false,
  });
}

export function dogFollows(s: Teller): void {
  castHero(s, "child");
  open(s);
  setPlace(s, "market", "school", "park", "library");
  setDay(s);
  castAnimal(s, ["dog", "puppy", "cat", "kitten", "goat", "duck"]);
  castElder(s);
  s.say("{When} {H.auto} was on the way home from {place} when {P.a} began to follow {H.him}.");
  s.say("when {H} stopped, {P} stopped. when {H} ran, {P} ran(| too).");
  s.sayOne(
    '"do you have a home?" asked {H}. {P} only (looked up|tilted its head).',
    '"go home," said {H}, but {P} did not want to go.',
  );
  s.say(
    '"can we keep it?" {H} asked {M}. "first we must find out if it belongs to somebody," said {M}.',
  );
  s.beat();
  s.say(
    "they wrote a (card|note) and put~ it (on the gate|up at the market). (three days|a week|two days) went by. {H} and {P} played (and slept side by side|in the yard all day).",
  );
  const owner = s.chooser.chance(0.5);
  if (owner) {
    s.cast.S = someone(
      s.chooser.pick(["baker", "sailor", "teacher", "farmer", "woman"]),
      "she",
      "old",
    );
    s.say(
      'then {S.a} knocked at the door. "you found my {P.n}!" {S.he} cried. {P} jumped into {S.his} arms.',
    );
    s.say(
      '{H.auto} swallowed hard. but {S} said, "you may come and play with it whenever you want."',
    );
  } else s.say('nobody came. "well," said {M}, "I think it has chosen you." {H} jumped for joy.');
  s.beat();
  if (owner) happy(s);
  close(s, {
    lesson: "an honest heart is never alone",
    since: owner ? "{H.auto} visited {P} every (week|day)" : "{P} slept at the foot of {H.s} bed",
    home: false,
  });
}

export function bigFish(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  const place = setPlace(s, "lake", "river");
  setDay(s, "sunny", "warm", "cloudy");
  s.cast.P = {
    noun: "fish",
    adjectives: [s.chooser.pick(["huge", "golden", "silver", "big"])],
    pronoun: "it",
  };
  s.say("{When} {H} and {M} went fishing {at}.");
  digress(s, place);
  attempts(
    s,
    [
      "{H.auto} caught an old boot.",
      "{H.auto} waited for an hour, but nothing happened.",
      "{H.auto} pulled out a stick with green leaves.",
      "a frog jumped onto {H.s} net and laughed.",
    ],
    2,
  );
  s.beat();
  s.say(
    "then the line moved. {H.auto} pulled with all {H.his} strength, and out of the water came {P.a}! it was (longer than {H.his} arm|heavier~comparison than a cat|the biggest fish in {place}).",
  );
  s.say(
    '"please let me go," said {P}. "(I have nine children|I want to see the sea once more|my family is waiting for me)."',
  );
  s.sayOne(
    "{H.auto} looked at {M}, and {M} nodded.",
    "{H.auto} was hungry, but {H.he} was also kind.",
  );
  s.say("{H.auto} put~ {P} back into the water, and it swam away.");
  s.beat();
  const reward = s.chooser.chance(0.5);
  if (reward)
    s.say(
      'a moment later {P} came back with a (pearl|golden ring|silver coin) in its mouth. "this is for your kind heart," it said.',
    );
  else
    s.say(
      "that evening they ate (bread and cheese|potatoes) instead of fish. it tasted better than (any dinner before|ever).",
    );
  close(s, {
    lesson: "(a kind deed is never lost|kindness is worth more than dinner)",
    since: "{P} waved its tail whenever {H} came by",
    home: false,
  });
}

export function bigVegetable(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.O = thing(
    s.chooser.pick(["turnip", "pumpkin", "carrot", "onion", "potato"]),
    s.chooser.pick(["huge", "enormous"]),
  );
  const big = s.entity("O");
  s.cast.When = "one (autumn day|morning in autumn|day),";
  s.say(
    "{When} {H.auto} went to the garden and saw {O.a}. {H.auto} pulled and pulled, but it did not move.",
  );
  castElder(s);
  s.say(
    `so~cause {H.he} called {M}. {M.auto} pulled {H.autohim}, and {H} pulled {O}, but it stayed in the ground.`,
  );
  const helpers = ["a (horse|cow|goat)", "a (dog|cat)", "the (baker|teacher|neighbour)"];
  const second = s.chooser.pick(helpers);
  s.say(
    `then ${second} came along and pulled too. they pulled (until their faces were red|with all their strength), but nothing happened.`,
  );
  s.say(
    '"we need one more," said {M}. "but who is left~?" at that moment a (tiny|little) (mouse|ant|snail) came by. "may I help?" it asked.',
  );
  s.sayOne(
    "everybody laughed. how could one so small help?",
    '"you are too small," they said, but {H} (smiled|nodded) and said, "please do."',
  );
  s.beat();
  s.say(
    `one, two, three! all of them pulled at once, and plop! {O.full} came out, and everyone fell (into the mud|over backwards).`,
  );
  s.say(
    `that evening there was ${big.noun} soup for all, and the little helper got the (biggest|first) bowl.`,
  );
  close(s, {
    lesson: "nobody is too small to help",
    since: "nobody laughed at small helpers anymore",
    home: false,
  });
}

export function picnic(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  const place = setPlace(s, "meadow", "hill", "park", "lake", "beach");
  setDay(s, "sunny", "warm");
  s.say(
    "{When} {both} had a picnic {at}. they brought (sandwiches|bread and cheese|pancakes), (plums|apples|cherries) and (a chocolate cake|a bottle of milk|honey buns).",
  );
  digress(s, place);
  const trouble = s.chooser.index([1, 1, 1]);
  s.beat();
  if (trouble === 0) {
    s.say("when they were about to eat, a drop fell on {H.s} nose. then another. it was raining!");
    sad(s, "F");
    s.say(
      '"wait," said {H}. {H.auto} took the blanket and hung it over a branch, and now they had a tent. they sat in it side by side and listened to the rain.',
    );
    s.say(
      "the food tasted even better there, and when the rain stopped, there was a rainbow in the sky.",
    );
  } else if (trouble === 1) {
    s.say(
      "they went away to wash their hands. when they came back, the basket was empty! (who had eaten everything?|where was the food?)",
    );
    s.say(
      "then they saw a long, long row of ants. each ant was carrying a bit of bread. the two followed the ants and found them having a party under a stone.",
    );
    s.say(
      '{H.auto} wanted to be angry, but {H.he} had to laugh. "they were hungry too," said {F}. the queen of the ants gave them a (strawberry|drop of honey) and said, "<thanks: thank you> for the feast."',
    );
  } else {
    castAnimal(s, ["goat", "dog", "duck", "horse", "bear"]);
    s.say(
      "{P.a} came near and looked at the basket with (big|hungry) eyes. {F.auto} was a little afraid, but {H} (held out|offered) a piece of bread.",
    );
    s.say(
      "{P} ate it, and then it ate one more, and then it lay down beside them. it was not dangerous, it was only hungry (and lonely|).",
    );
  }
  happy(s, "both");
  close(s, {
    lesson: "(a bad moment can become a good story|there is enough when one shares)",
    since: "they always brought (a little more|food for one more guest)",
  });
}

export function snowman(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  const place = setPlace(s, "garden", "park", "hill", "meadow");
  setDay(s, "snowy");
  const hat = s.chooser.pick(COLOURS);
  s.say("{When} {both} put~ on their (boots|mittens|coats) and ran {to}.");
  if (place.name !== "park" && s.chooser.chance(0.4))
    s.say("the snow was (deep and soft|as white as milk).");
  s.say(
    '"let\'s build a snowman!" said {F}. they rolled three balls: a big one, a smaller one and a very small one.',
  );
  s.say(`they gave it a carrot for a nose, two (stones|buttons|nuts) for eyes and a ${hat} hat.`);
  s.sayOne(
    "{H.auto} tied {H.his} own scarf around its neck, because it looked cold.",
    "it was taller than both of them.",
  );
  s.beat();
  const magic = s.chooser.chance(0.4);
  if (magic) {
    s.say(
      `that night, when everyone was asleep, the snowman (moved|opened its eyes). it (danced|walked) through the (snow|village) in the light of the moon and (waved|bowed) to the stars.`,
    );
    s.say(
      `in the morning it stood in its place again, but its ${hat} hat was on the other side. "did you move it?" asked {H}. "no," said {F}. "did you?"`,
    );
  } else {
    s.say(
      "but the next day was warm, and the snowman became smaller and smaller. at last there was only a puddle, and in the puddle lay a (carrot|" +
        hat +
        " hat).",
    );
    sad(s);
    s.say(
      '"don\'t be sad," said {F}. "it did not go away forever. it is in the clouds now, and next winter it will come back as snow."',
    );
  }
  s.beat();
  s.sayOne(
    "they went inside and drank hot milk with honey.",
    "they laughed and threw snowballs until their fingers were cold.",
  );
  close(s, {
    lesson: magic ? "some nights are full of magic" : "what goes away may come back",
    since: "{both} built a snowman every winter",
  });
}
