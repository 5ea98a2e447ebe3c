import {
  castElder,
  castHero,
  castObject,
  COLOURS,
  setDay,
  setPlace,
  someone,
  thing,
} from "../cast.ts";
import type { Teller } from "../grammar.ts";
import { attempts, close, digress, open, thank } from "../parts.ts";

/** Plots with magic: wishes, giants, stars, robots. */

export function magicThing(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "forest", "beach", "meadow", "river");
  setDay(s);
  castObject(s, "treasure");
  goTo(s);
  digress(s, place);
  s.cast.spot = s.chooser.pick(place.spots);
  s.say(
    '{spot}, {H} found {O.a}. when {H.he} touched it, it began to glow. "<magic: I am magic>," said {O}. "make one wish!"',
  );
  const wish = s.chooser.index([1, 1, 1, 1]);
  const wishes = [
    "to fly like a bird",
    "to be as big as a giant",
    "to have all the cakes in the world",
    "to talk with the animals",
  ];
  s.say(`{H.auto} thought for a (moment|minute). "I wish ${wishes[wish]}!" {H.he} (said|cried).`);
  s.beat();
  if (wish === 0)
    s.say(
      "at once {H} had (two white|two little|golden) wings! {H.auto} flew over the village and through a cloud. but it was cold up there, and (nobody|no one) could (play|fly) with {H.him}.",
    );
  else if (wish === 1)
    s.say(
      "{H.auto} grew and grew until {H.his} head was above the trees. but now {H.his} bed was too small, the door was too narrow, and everyone ran away from {H.him}.",
    );
  else if (wish === 2)
    s.say(
      "cakes fell from the sky, hundreds of cakes! {H.auto} ate and ate. soon {H.his} tummy hurt~past_tense_verb, and the whole street was full of cream.",
    );
  else
    s.say(
      "now {H} understood every word. the birds talked about the weather, the bees talked about flowers, and the cows talked about grass. all of them talked at once, and {H} could not sleep.",
    );
  s.beat();
  s.sayOne(
    '"I want to be (as before|myself again)," {H} said at last. "please, {O.call}!"',
    '"oh dear," sighed {H}. "I don\'t want this anymore."',
  );
  s.say("{O} glowed once more, and everything was as it had been.");
  s.sayOne(
    "{H.auto} put~ {O} back where it had been, {spot}.",
    "{H.auto} left {O} for somebody else and ran home.",
  );
  close(s, {
    lesson: "(a wish should be chosen with care|it is good to be just as you are)",
    since: "{H.auto} was happy with what {H.he} had",
  });
}

function goTo(s: Teller): void {
  s.sayOne(
    "{When} {H.auto} went {to}.",
    "{When} {H.auto} (walked|ran|hurried) {to}.",
    "{When} {H} was playing {at}.",
  );
}

export function dragon(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.D = {
    noun: s.chooser.pick(["dragon", "giant", "monster"]),
    adjectives: [s.chooser.pick(["huge", "old", "terrible"])],
    pronoun: "it",
  };
  const giant = s.entity("D").noun === "giant";
  if (giant) s.entity("D").pronoun = "he";
  s.say(
    `in (a dark cave|the mountains|an old tower) near the village lived {D.a}. everyone was afraid of {D.him}, because {D.he} (roared|growled) every night.`,
  );
  s.sayOne(
    '"somebody must go there," said the people, but nobody wanted to go. "I will go," said {H}.',
    "{H.auto} was afraid as~ well, but {H.he} was also curious.",
  );
  s.say(
    "{H.auto} took (a lantern and some bread|a loaf of bread|a flute) and climbed up the path. {H.his} heart was beating (like a drum|fast).",
  );
  s.beat();
  s.say('there sat {D}, but {D.he} was crying. "why do you cry?" asked {H}.');
  const why = s.chooser.index([1, 1, 1]);
  s.say(
    [
      '"I have a thorn in my foot," said {D}, "and it hurts~ at night."',
      '"I am so lonely," said {D}. "when I say <greeting: hello>, everyone runs away."',
      '"I have lost my teddy," said {D}, "and I can\'t sleep without it."',
    ][why],
  );
  s.say(
    [
      "{H.auto} took hold of the thorn with both hands and pulled. out it came! {D} sighed with joy.",
      '"then come with me," said {H}, "and say it more softly." {D} tried. "<greeting: hello>," {D.he} whispered. it was much better.',
      "{H.auto} searched the whole place, and behind a rock {H.he} found a teddy as big as a cow. {D} hugged it (tight|with both arms).",
    ][why],
  );
  s.beat();
  s.say(
    'when the two came down to the village, people (hid behind their doors|screamed). "don\'t be afraid," said {H}. "{D.he} is my friend."',
  );
  s.say(
    `soon the children were (riding on {D.his} back|sliding down {D.his} back), and {D} (${giant ? "mended the roofs" : "lit the lamps"}|carried wood) in winter.`,
  );
  close(s, {
    lesson: "(those who roar may need a friend|one should ask before one is afraid)",
    since: "nobody in the village was afraid of {D}",
  });
}

export function sadKing(s: Teller): void {
  castHero(s);
  open(s);
  const queen = s.chooser.chance(0.5);
  s.cast.K = someone(queen ? "queen" : "king", queen ? "she" : "he", "old");
  s.say(
    "in the castle on the hill lived {K.a} who never laughed. {K.he} had (gold|jewels) and horses, but {K.he} was always sad.",
  );
  s.say('"whoever makes me laugh," said {K}, "may have (a wish|a horse|the golden crown)."');
  attempts(
    s,
    [
      "a singer sang a merry song, but {K} only yawned.",
      "a wizard pulled a rabbit out of a hat, but {K} shook {K.his} head.",
      "a baker brought a cake as tall as a tower, but {K} was not hungry.",
      "three monkeys danced on a rope, but {K} looked out of the window.",
    ],
    3,
  );
  s.beat();
  s.say(
    "then {H} came (to the castle|through the gate), because {H.he} (wanted to help|felt sorry~ for {K.him}).",
  );
  const how = s.chooser.index([1, 1, 1]);
  s.say(
    [
      "{H.auto} bowed so~ low that {H.his} hat fell off. a hen jumped into it and laid an egg.",
      '{H.auto} asked, "has anyone ever played with you?" {K} shook {K.his} head. so~cause they played hide and seek, and {K} hid under the table with {K.his} feet sticking out.',
      "{H.auto} brought a puppy, who ran off with {K.his} shoe and would not give it back.",
    ][how],
  );
  s.say(
    "first {K} smiled. then {K.he} giggled. and then {K.he} laughed so loudly that the windows shook.",
  );
  s.say(
    '"what is your wish?" asked {K}. "(come and visit us|play with us every week)," said {H}, "because laughing is better together."',
  );
  close(s, {
    lesson: "(joy cannot be bought|a laugh is worth more than gold)",
    since: "{K} laughed at least once a day",
  });
}

export function star(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.O = thing(
    "star",
    s.chooser.pick(["little", "tiny", "small"]),
    s.chooser.pick(["golden", "white", "silver"]),
  );
  s.cast.When = "one (clear|cold|warm) night,";
  s.say(
    "{When} {H.auto} saw a light fall from the sky. it fell (into the garden|behind the hill|into the pond). {H.auto} ran there and found {O.a}.",
  );
  s.say('"I slipped off the sky," said {O}. "my sisters are up there, and I want to go home."');
  attempts(
    s,
    [
      "{H.auto} threw {O} up high, but it fell down again.",
      "{H.auto} climbed the tallest tree, but the sky was still far away.",
      "{H.auto} tied {O} to a balloon, but it was too heavy~.",
      "{H.auto} asked an owl, but the owl could not fly so~ high.",
    ],
    3,
  );
  s.beat();
  s.say("{H.auto} sat down and thought. what makes stars rise?");
  const how = s.chooser.index([1, 1, 1]);
  s.say(
    [
      "{H.auto} told {O} a funny story. {O} laughed, and with every laugh it became lighter~comparison, until it floated.",
      "{H.auto} sang a song for {O}. it glowed brighter~comparison and brighter~comparison, and slowly it rose into the air.",
      'then the moon bent down. "I have been looking for you," said the moon. it let down a long silver rope, and {O} climbed up.',
    ][how],
  );
  s.say(
    '"<farewell: goodbye>, {H}!" called {O}. "<farewell: goodbye>!" called {H} and waved until {H.his} arm was tired.',
  );
  s.beat();
  s.say("up in the sky, one star twinkled more than all the others.");
  close(s, {
    lesson: "one can help even those who are far above",
    since: "{H.auto} looked up every night and said <farewell: good night>",
    home: false,
  });
}

export function robot(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.R = {
    noun: "robot",
    adjectives: [s.chooser.pick(["little", "old", "small"]), s.chooser.pick(COLOURS.slice(0, 6))],
    pronoun: "it",
  };
  castElder(s);
  setDay(s);
  s.say(
    "{When} {H.auto} found {R.a} behind (the barn|the school|the old tower). it could walk and speak, but it did not know what a (friend|song|joke|smile) was.",
  );
  s.say('"can you teach me?" asked {R}.');
  attempts(
    s,
    [
      "{H.auto} read~past_tense_verb to it from a thick book, but {R} did not understand.",
      "{H.auto} drew a picture, but {R} only saw lines.",
      "{H.auto} asked a wise man, but his answer was too long.",
    ],
    2,
  );
  s.beat();
  s.say(
    "then {H} fell over a stone and hurt~ {H.his} knee. {R} came at once. it lifted {H.him} up and carried {H.him} home, although its arms creaked.",
  );
  s.say(
    '"why did you do that?" asked {H}. "I don\'t know," said {R}. "I did not want you to cry."',
  );
  s.say('{H.auto} smiled. "(now you know it|you see), you have learned it by yourself."');
  thank(s, "H", "R");
  s.beat();
  s.say("there was a funny sound inside {R}. it was laughing for the first time.");
  close(s, {
    lesson: "some things can only be learned by doing them",
    since: "{H} and {R} were friends",
  });
}
