import {
  castAnimal,
  castElder,
  castFriend,
  castHero,
  COLOURS,
  setDay,
  setPlace,
  someone,
} from "../cast.ts";
import type { Teller } from "../grammar.ts";
import { attempts, close, digress, happy, open, thank } from "../parts.ts";

/** Plots on the way: trips, errands, races, a skill to learn, a book to find. */

export function boatTrip(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  setPlace(s, "lake", "river");
  const weather = setDay(s, "sunny", "warm", "windy");
  s.cast.O = {
    noun: "boat",
    adjectives: [s.chooser.pick(["little", "old", "small"]), s.chooser.pick(COLOURS)],
    pronoun: "it",
  };
  s.say("{When} {both} climbed into {O.a} and rowed out onto the water.");
  s.sayOne(
    "fish swam beside them, and the sun (danced on the waves|was warm on their faces).",
    '"I am the captain!" said {H}. "and I am the pirate," said {F}.',
  );
  s.beat();
  const trouble = s.chooser.index([2, 1, 1]);
  if (trouble === 0) {
    s.say("suddenly {H.s} feet were wet. there was a hole in {O}! it began to sink.");
    attempts(s, [
      "{F} put~ a hand on the hole, but the water still came in.",
      "{H.auto} took the bucket and poured the water out, but it came back faster.",
      "they shouted for help, but the shore was too far away.",
    ]);
    s.say(
      '"(your hat|your scarf|my sock)!" cried {H}. they pushed it into the hole, and the water stopped. then they rowed back as fast as they could.',
    );
  } else if (trouble === 1) {
    s.say("then {F} lost an oar. it floated away, and they could only row in circles.");
    attempts(s, [
      "{H.auto} reached for it, but {H.his} arm was too short.",
      "they used their hands, but they were too slow.",
    ]);
    s.say(
      'then a swan came by. {F.auto} threw it a rope, and the swan pulled {O} back to the shore. "<thanks: thank you>!" they called.',
    );
  } else {
    s.say(
      `${weather === "windy" ? "then the wind grew stronger" : "then a strong wind came up"}, and the waves were higher than {O}. {F.auto} was afraid. "hold my hand," said {H}, "and look at the shore."`,
    );
    s.say(
      "they rowed and rowed until their arms hurt~past_tense_verb. at last {O} touched the sand.",
    );
  }
  s.beat();
  s.say('they lay on the grass and (breathed|laughed). "what an adventure!" said {F}.');
  close(s, {
    lesson: "it is good to stay calm when there is trouble",
    since: "they looked at every boat carefully before they climbed in",
  });
}

export function camping(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  const place = setPlace(s, "forest", "lake", "hill");
  s.cast.When = "one (summer evening|warm evening|evening in summer),";
  s.say(
    "{When} {both} put~ up a tent {at}. they made a small fire and ate (potatoes|bread on sticks|pancakes).",
  );
  if (place.name === "lake") s.say("the moon was swimming in the water.");
  s.say(
    "when the fire was out, it was very dark. suddenly they heard a sound: (hoo, hoo|crack, crack|scratch, scratch)!",
  );
  s.say(
    '"what was that?" whispered {F}. "(a ghost|a bear|a monster)?" whispered {H}. they held hands and did not move.',
  );
  s.beat();
  s.say("the sound came closer. at last {H} took the lamp and looked out.");
  castAnimal(s, ["owl", "hedgehog", "badger", "squirrel", "deer"]);
  s.say(
    'there sat {P.a}. "<greeting: good evening>," it said. "you have put~ your tent on my (path|dinner table|front door)."',
  );
  s.say(
    '{both} had to laugh. "<apology: we are sorry>," they said. they (moved|pulled) the tent a little to the side and gave {P} some bread.',
  );
  s.beat();
  s.say(
    "then all three looked at the stars together. there were more stars than anyone could count.",
  );
  close(s, {
    lesson: "a ghost may be a guest",
    since: "they asked the animals first before they put~ up a tent",
  });
}

export function trainTrip(s: Teller): void {
  castHero(s, "child");
  open(s);
  castElder(s);
  setDay(s);
  const goal = s.chooser.pick(["the sea", "the mountains", "the big town", "the zoo"]);
  s.say(
    `{When} {H} and {M} took the train to ${goal}. {H.auto} (sat by the window|had a seat by the window) and held both tickets.`,
  );
  s.say("outside, (fields|houses|cows and horses), (bridges|rivers) and (forests|hills) flew by.");
  s.say('then the conductor came. "tickets, please," the man said.');
  s.say("{H.auto} looked into {H.his} hand. it was empty!");
  attempts(
    s,
    [
      "{H.auto} looked under the seat, but there was only a button.",
      "{M} looked into the bag, but there were only sandwiches.",
      "{H.auto} turned out all pockets and found a nut, a feather and a key.",
      "{H.auto} searched the coat, but the tickets were not in it.",
    ],
    3,
  );
  s.say("{H.auto} was so worried that {H.his} ears were hot.");
  s.beat();
  s.say(
    "then a baby on the next bench laughed. it had (two tickets in its mouth|something in its hand: two tickets)! they were (wet|a little wet), but they were the right ones.",
  );
  s.say(
    'the conductor laughed too. "these tickets taste good, it seems," the man said and made a hole in each.',
  );
  s.beat();
  s.say(
    `when they got out, {H} could already ${goal === "the sea" ? "(see|smell)" : "see"} ${goal}.`,
  );
  happy(s);
  close(s, {
    lesson: "the best place for a ticket is a pocket",
    since: "{H.auto} kept tickets under {H.his} hat",
    home: false,
  });
}

export function errand(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  setDay(s);
  const items = ["bread", "milk", "cheese", "butter", "honey", "flour", "rice", "salt"];
  const first = s.chooser.pick(items);
  const second = s.chooser.pick(items.filter((item) => item !== first));
  const third = s.chooser.pick(items.filter((item) => item !== first && item !== second));
  s.say(
    `{When} {M} gave {H.autohim} a basket and (two|three|five) coins. "please buy ${first}, ${second} and ${third}," said {M}.`,
  );
  s.say(
    `"${first}, ${second} and ${third}," {H} said again and again on the way, so that {H.he} would not forget.`,
  );
  s.say(
    "but then {H} saw (a rainbow|a parrot|a man on a very tall bike|two dogs in hats) and stopped to look. when {H.he} walked on, the words were gone!",
  );
  s.beat();
  s.say(
    `"what did you want?" asked the woman at the market. "${first}," said {H}, "and ${second}."`,
  );
  s.say("(what was the last thing?|but what was the third one?) {H} closed {H.his} eyes.");
  const turn = s.chooser.chance(0.5);
  const hints: Record<string, string> = {
    bread: "something that comes out of an oven",
    milk: "something that comes from a cow",
    cheese: "something that mice love",
    butter: "something that one puts on bread",
    honey: "something that bees make",
    flour: "something that one needs for a cake",
    rice: "something small and white that one cooks",
    salt: "something that makes soup taste better",
  };
  s.say(
    `{H.auto} only knew that it was ${hints[third]}. "then it must be ${third}!" (said|laughed) the woman.`,
  );
  if (turn) s.say("{H.auto} paid and ran home as fast as {H.he} could.");
  else s.say("{H.auto} was so glad that {H.he} hugged {H.his} basket.");
  s.say(
    `"${first}, ${second} and ${third}," said {M} and looked into the basket. "nothing is missing. (well done|how clever you are)!"`,
  );
  close(s, {
    lesson: "it helps to write things down",
    since: "{H.auto} wrote everything on a card",
    home: false,
  });
}

export function library(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "library");
  setDay(s, "rainy", "cold", "cloudy");
  s.cast.L = someone("librarian", s.chooser.pick(["she", "he"]));
  const topics = ["dragons", "pirates", "the stars", "a lonely giant", "bears", "the sea"];
  const topic = s.chooser.pick(topics);
  const colour = s.chooser.pick(COLOURS);
  s.say(`{When} {H.auto} went {to} to find a book about ${topic}.`);
  digress(s, place);
  attempts(s, [
    "{H.auto} looked on the first shelf, but there were only books about (cooking|trees).",
    "{H.auto} climbed a ladder, but the top shelf was empty.",
    "{H.auto} pulled out a thick book, but it had no pictures.",
  ]);
  s.say(
    '"<greeting: hello>, can I help you?" whispered {L}. {H.auto} told {L.him} what {H.he} was looking for.',
  );
  s.beat();
  s.say(
    `{L} led {H.him} to a quiet corner, where an old ${colour} book was lying ${s.chooser.pick(["under a chair", "on the lowest shelf", "beside a lamp"])}.`,
  );
  s.say(
    `{H.auto} sat down and read~past_tense_verb. the book told of ${topic}, and {H} forgot the (time|hour).`,
  );
  s.sayOne(
    '"may I take it home?" asked {H}. "yes, if you bring it back next week," said {L}.',
    '"we close in five minutes," said {L}. {H.auto} could not believe it.',
  );
  thank(s, "H", "L");
  close(s, {
    lesson: "a book can take you (anywhere|further than any ship)",
    since: "{H.auto} went to the library every week",
  });
}

export function race(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  castFriend(s, "R");
  setDay(s, "sunny", "windy", "cloudy");
  setPlace(s, "hill", "meadow", "park", "beach");
  s.say(
    `{When} there was a race {at}. {H.name}, {F.name} and {R.name} stood at the line. {R} was the fastest of all and said so~ (often|to everyone).`,
  );
  s.say('"you are too slow," {R} said to {H}. {H.auto} said nothing.');
  s.say("one, two, three, go! {R} was in front at once. {F.auto} was second, and {H} was last.");
  s.beat();
  const turn = s.chooser.index([1, 1, 1]);
  if (turn === 0) {
    s.say(
      "after half of the way, {R} was so far ahead that {R.he} sat down to (rest|eat an apple) and fell asleep. {H.auto} walked past {R.him}, step by step, without a sound.",
    );
    s.say("when {R} woke up, {H} had already won. everybody cheered.");
    s.say(`"I was (foolish|too proud)," said {R}. "you have won because you did not stop."`);
  } else if (turn === 1) {
    s.say(
      "but then {F} fell and hurt~ {F.his} knee. {R} ran on. {H.auto} could have won second prize, but {H.he} stopped.",
    );
    s.say(
      '"can you stand up?" {H} asked and (gave {F.him} a hand|took {F.his} arm). slowly they walked to the end together, last of all.',
    );
    s.say(
      `the crowd cheered louder for them than for {R}, and the judge gave them a ${s.chooser.pick(COLOURS)} ribbon.`,
    );
  } else {
    s.say(
      'but at the stream, {R} did not dare to jump. "it is too deep," {R.he} said. {H} and {F} waited for {R.him}. they found a log and made a bridge.',
    );
    s.say(
      'so~cause it happened that all three came in at the same moment. "who is the winner?" asked the judge. "all of us!" they shouted.',
    );
  }
  happy(s);
  close(s, {
    lesson: "(being first is not everything|slow and steady steps go far)",
    since: "{R} was (kinder|less proud) to the others",
  });
}

const SKILLS: [string, string, string][] = [
  ["to swim", "swam", "{H.auto} (swallowed water|sank like a stone)"],
  ["to ride a bike", "rode down the street", "{H.auto} fell into (a bush|the grass)"],
  ["to whistle", "whistled a song", "only air came out"],
  ["to skate", "slid over the ice", "{H.auto} fell on {H.his} knees"],
  ["to play the flute", "played a song", "it sounded like a (goat|sick duck)"],
  ["to draw a horse", "drew a horse", "it looked like (a potato|a table with ears)"],
  ["to tie shoes", "tied both shoes", "the shoes (fell off|were tied together)"],
];

export function learnSkill(s: Teller): void {
  castHero(s, "child");
  open(s);
  castElder(s);
  setDay(s);
  const [skill, did, failure] = s.chooser.pick(SKILLS);
  s.sayOne(
    `{When} {H.auto} decided to learn ${skill}.`,
    `all {H.s} friends knew how ${skill}, but {H} did not.`,
  );
  s.say(`at first it was (hard|very hard). {H.auto} tried, but ${failure}.`);
  s.sayOne(
    '"I can\'t do it!" {H.auto} (cried|shouted).',
    '"I will never learn it," {H.auto} said (sadly|angrily).',
  );
  s.say(
    '"nobody can do it on the first day," said {M}. "try (once more|again), and I will (watch|help) you."',
  );
  s.beat();
  s.sayOne(
    "{H.auto} practised on Monday, on Tuesday and on Wednesday.",
    "{H.auto} practised every day after (school|breakfast).",
    "so~cause {H} tried again, and again, and again.",
  );
  s.say("each time it was a little (better|easier), although {H} still made mistakes.");
  s.beat();
  s.say(
    `then, (one morning|at last|on the seventh day), it worked. {H.auto} ${did} without any help! "look at me!" {H.he} (cried|shouted).`,
  );
  s.say("{M} clapped {M.his} hands. {H.auto} was very proud.");
  close(s, {
    lesson: "(practice helps|one must try more than once)",
    since: `{H.auto} taught other children ${skill}`,
    home: false,
  });
}
