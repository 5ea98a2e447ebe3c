import {
  castFriend,
  castHero,
  castMany,
  castObject,
  castSibling,
  COLOURS,
  setDay,
  setPlace,
  someone,
  thing,
} from "../cast.ts";
import type { Teller } from "../grammar.ts";
import { attempts, close, digress, happy, open, remember, sad } from "../parts.ts";

/** Plots about friends and family: sharing, giving, missing, making up. */

export function shareToy(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "park", "garden", "school", "beach", "meadow");
  setDay(s);
  castObject(s, "toy");
  castFriend(s);
  s.sayOne(
    "{When} {H.auto} was playing with {O.a} {at}.",
    "{When} {H.auto} took {H.his} {O.an} {to}.",
  );
  digress(s, place);
  s.say('{F} came (along|by|over) and asked, "(may|can) I play with your {O.n}(| too)?"');
  s.sayOne(
    '"no!" said {H}. "it is mine!"',
    "but {H} did not want to share and held {O} (tight|behind {H.his} back).",
  );
  s.say(
    "{F} (went away|left) and sat down alone. {F.he} (looked at {F.his} feet|was very sad|said nothing).",
  );
  s.beat();
  s.sayOne(
    "{H.auto} played alone, but (after a while|soon) it was not so much fun(| as before).",
    "{H.auto} threw {O} into the air and caught it, but nobody cheered.",
  );
  remember(s, "a toy is (twice as much fun|more fun) with a friend");
  s.sayOne(
    '{H.auto} went to {F}. "<apology: I\'m sorry>," {H.he} said. "do you want to play with me?"',
    '"<apology: sorry>, {F}," said {H}. "let\'s play with {O} together."',
  );
  s.say(
    "{F} (smiled|nodded) and (stood|jumped) up. {both} played with {O} until (the sun went down|it was time for (lunch|dinner)).",
  );
  close(s, {
    lesson: "(sharing makes a game better|playing together is better than playing alone)",
    since: "{both} shared (everything|all their toys)",
  });
}

export function gift(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  s.say("{H.auto} wanted to give {F} something (special|nice) for {F.his} birthday.");
  s.sayOne(
    "{H.auto} had no money, so~cause {H.he} could not buy a gift.",
    "but {H} had only (one coin|two coins), and that was not enough for (a gift|a toy) at the market.",
  );
  s.beat();
  const made = s.chooser.index([1, 1, 1, 1]);
  if (made === 0) {
    s.say(
      "{H.auto} took paper and paint and drew a picture of the two of them (under a rainbow|in a boat|on a hill).",
    );
    s.cast.G = thing("picture");
  } else if (made === 1) {
    s.say(
      "{H.auto} went to the beach and collected shells. {H.auto} tied them on a long string, one after the other, from the smallest to the biggest.",
    );
    s.cast.G = thing("necklace");
  } else if (made === 2) {
    s.say(
      "{H.auto} baked (a little cake|a bun) with (berries|nuts and honey). it was not very (round|pretty), but it smelled delicious.",
    );
    s.cast.G = thing(s.chooser.pick(["cake"]));
  } else {
    s.say(
      "{H.auto} made up a song about {F} and practised it all (day|morning), until even the birds knew it.",
    );
    s.cast.G = thing("song");
  }
  s.sayOne(
    "{H.auto} worked (so hard|so long) that {H.he} forgot to eat.",
    "it took the whole afternoon, but {H} did not mind.",
  );
  s.beat();
  s.say(
    'at the party, the others gave {F} (big|expensive|shiny) things. {H.auto} was (nervous|worried). "mine is only small," {H.he} said.',
  );
  if (made === 3)
    s.say("then {H} sang {G}. everyone was silent, and {F} had tears of joy in {F.his} eyes.");
  else s.say("{F} opened the paper and saw {G}. {F.his} eyes (shone|grew wide).");
  s.say(
    '"this is the (best|nicest~comparison|finest) gift of all," said {F}, "because you made it (yourself|for me)."',
  );
  close(s, {
    lesson: "a gift from the heart is the best gift",
    since:
      "{F} " +
      (made === 3
        ? "hummed {G} whenever {F.he} was sad"
        : made === 2
          ? "asked for the same cake every year"
          : "kept {G} near {F.his} bed"),
  });
}

export function countMarbles(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  const many = castMany(s, ["apple", "cookie", "marble", "nut", "plum", "berry"]);
  many.count = s.chooser.pick(["four", "six", "eight", "ten"]);
  const half = { four: "two", six: "three", eight: "four", ten: "five" }[many.count]!;
  s.cast.S = someone(
    "neighbour",
    s.chooser.pick(["she", "he"]),
    s.chooser.pick(["old", "friendly", "kind"]),
  );
  setDay(s);
  s.say("{When} {S.a} gave {both} a bag with {N.count}(| as thanks~thanks for their help).");
  s.say(
    '"I spoke first, so~cause I should get more," said {F}. "no, I carried the bag!" said {H}.',
  );
  s.sayOne(
    "they pulled at the bag, one from each side, until it tore. {N} rolled (down the street|all over the floor)!",
    "they were so angry that neither of them looked at the bag. it fell, and {N} rolled away!",
  );
  s.beat();
  s.say(
    "they had to crawl around to find {N.him}: one under a bench, one behind a door, one in a puddle.",
  );
  s.say(
    `when they had found the last one, they were laughing. "let's count," said {H}. "{N.count}! that is ${half} for you and ${half} for me."`,
  );
  s.say("{F} (nodded|agreed). it was so easy(|, after all).");
  close(s, {
    lesson: "half of something is better than all of nothing",
    since: "{both} (always counted first|shared everything fairly)",
  });
}

export function sickFriend(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  setDay(s, "rainy", "cold", "windy", "snowy");
  s.say("{When} {H.auto} waited for {F} at the (corner|bridge|gate), but {F} did not come.");
  s.say(
    '{H.auto} went to {F.s} house and knocked. "{F} is sick," said {F.his} mother. "{F.he} has to stay in bed."',
  );
  s.sayOne("{H.auto} was worried.", "{H.auto} went home with a heavy~ heart.");
  s.say("what could {H} do? {H.he} thought and thought.");
  s.beat();
  s.say(
    "then {H.he} had an idea. {H.auto} (cooked a pot of soup|baked a bun with honey|drew a funny picture|wrote a long letter) and brought it to {F}.",
  );
  s.say(
    "{H.auto} also told {F} (a story about a dancing cow|everything that had happened at school|three very bad jokes). {F.auto} laughed until the bed shook.",
  );
  s.say('"I feel better already," said {F}.');
  s.beat();
  s.sayOne(
    "(three|two) days later, {F} stood at the gate again, with red cheeks.",
    "a week later it was {H} who was sick. and who came with soup? it was {F}!",
  );
  close(s, { lesson: "a visit can be the best medicine", since: "{both} took care of each other" });
}

export function moving(s: Teller): void {
  castHero(s, "child");
  open(s);
  castFriend(s);
  s.say(
    "{H.name} and {F.name} had been friends since they were babies. but now {F.s} family had to move to (a town far away|an island|the other side of the mountains).",
  );
  s.sayOne(
    "{H.auto} did not want to hear it.",
    '"will you forget me?" asked {H}. "never," said {F}.',
  );
  s.say(
    "on the last day they (climbed their tree|sat by the river|went to all their places) once more. nobody laughed that day.",
  );
  s.beat();
  s.say(
    `{H.auto} gave {F} a ${s.chooser.pick(COLOURS)} (marble|feather|shell|ribbon). "when you miss me, hold it," said {H}. then the cart drove away, and {F} waved until it was only a small dot.`,
  );
  sad(s);
  s.beat();
  s.say(
    'weeks passed. then, one (rainy |cold |)morning, there was a letter. "dear {H}," it said, "the (sea|town|school) here is big, but it is not the same without you. in summer I will come and visit you."',
  );
  s.say(
    "{H.auto} read~past_tense_verb it (three|ten|five) times. then {H.he} took a pencil and wrote a long answer.",
  );
  s.sayOne(
    "and when summer came, somebody knocked at the door. it was {F}!",
    "and in summer they ran towards each other, faster than ever before.",
  );
  close(s, {
    lesson: "friends stay friends, however far they live",
    since: "they wrote a letter every (week|month)",
  });
}

export function newAtSchool(s: Teller): void {
  castHero(s, "child");
  open(s);
  setPlace(s, "school");
  castFriend(s).known = true;
  s.cast.T = someone("teacher", s.chooser.pick(["she", "he"]));
  s.cast.When = "(one morning|on Monday|after the summer),";
  s.say(
    '{When} the teacher came in with a new child. "this is {F}," {T.he} said. "please say <greeting: hello>."',
  );
  s.sayOne(
    "{F} was so shy that {F.he} looked at the floor.",
    "{F} did not speak, and {F.his} hands were shaking.",
  );
  s.say(
    "at (noon|lunch), {F} sat alone (by the window|under a tree|at the last table). nobody talked to {F.him}.",
  );
  s.sayOne(
    "{H.auto} saw it and felt sorry~ for {F.him}.",
    "{H.auto} remembered how lonely {H.he} had been on {H.his} own first day.",
  );
  s.beat();
  s.say(
    '{H.auto} went over. "<greeting: hi>, I am {H}," {H.he} said. "do you like (drawing|apples|dragons|stories about pirates)?"',
  );
  s.say(
    '{F} looked up. "yes," {F.he} (whispered|said), "(very much|more than anything)." {H} (shared {H.his} lunch with {F.him}|sat down next to {F.him}), and they talked until the bell rang.',
  );
  s.beat();
  s.sayOne(
    "the next day, {F} was the first to laugh.",
    "a week later, {F} had many friends, but {H} was the best of them.",
  );
  close(s, { lesson: "one friendly word can change a day", since: "{both} sat side by side" });
}

export function loudDrum(s: Teller): void {
  castHero(s);
  open(s);
  const tool = s.chooser.pick(["drum", "flute", "violin", "bell"]);
  const verb = tool === "bell" ? "rang" : "played";
  castFriend(s);
  s.say(`{H} had a ${tool} and ${verb} it from morning to night. it was very loud.`);
  attempts(
    s,
    [
      `{H.auto} ${verb} it in the kitchen, but the cups fell from the shelf.`,
      `{H.auto} ${verb} it in the garden, but the birds flew away.`,
      `{H.auto} ${verb} it in the street, but the neighbours closed their windows.`,
      `{H.auto} ${verb} it in the barn, but the cows gave no more milk.`,
    ],
    3,
  );
  s.say(
    '"(too loud|stop that noise)!" said everyone. {H.auto} was sad, because {H.he} only wanted to make music.',
  );
  s.beat();
  s.say(
    `then {H} met {F}, who had a ${tool === "flute" ? "drum" : "flute"}. "let's play together," said {F}. "you play softly when I play softly, and loudly when I do."`,
  );
  s.say("it was hard in the beginning. but day by day it sounded more like a song.");
  s.beat();
  s.say(
    "one evening they played in the middle of the village. a window opened, and then another. people came out and began to dance. even the (old judge|baker|queen) danced.",
  );
  s.say('"more, more!" they shouted.');
  happy(s, "both");
  close(s, {
    lesson: "music is also listening",
    since: "there was a concert in the village every summer",
  });
}

export function surpriseParty(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  s.say("it was {H.s} birthday. {H.auto} woke up early and waited, but nobody said anything.");
  s.sayOne(
    '"<greeting: good morning>," said {H.his} mother, and that was all.',
    "at breakfast, there was only bread, as always.",
  );
  s.say(
    '{H.auto} met {F} in the street. "do you know what day it is?" {H} asked. "of course," said {F}. "it is a (Monday|Tuesday). I have no time today."',
  );
  s.say("had everyone forgotten {H.him}?");
  sad(s);
  s.beat();
  s.say(
    "in the (afternoon|evening), {H} walked home slowly. the house was dark and silent. {H.auto} opened the door.",
  );
  s.say(
    `"surprise!" shouted (twenty|ten|many) voices. lamps were lit~, and there were ${s.chooser.pick(COLOURS.slice(0, 6))} balloons, a (chocolate|strawberry|cherry) cake and all {H.his} friends!`,
  );
  s.say(
    '"did you think that we had forgotten?" (laughed|asked) {F} and gave {H.him} a (new kite|big box|drum|book about pirates).',
  );
  s.say(
    "{H.auto} was so surprised that {H.he} (could not say a word|had to sit down|forgot to say <thanks: thank you>).",
  );
  happy(s);
  s.beat();
  s.sayOne(
    "they danced and played games until (the moon rose|late at night).",
    "{H.auto} closed {H.his} eyes, made a wish and blew out the candles.",
  );
  close(s, {
    lesson: "friends may be silent, but they do not forget",
    since: "{H.auto} never again thought that {H.he} was forgotten",
    home: false,
  });
}

export function brothers(s: Teller): void {
  castHero(s);
  open(s);
  castSibling(s);
  s.say(
    `{H} was jealous of {B}. {B.he} was (bigger|faster|louder) and always got (the first pancake|the best chair|the biggest piece of cake).`,
  );
  s.sayOne(
    '"I wish I had no {B.n}!" shouted {H} one day and slammed the door.',
    "one day, {H} was so angry that {H.he} ran out of the house.",
  );
  s.say(
    "{H.auto} ran into the forest, further than ever before. soon {H.he} did not know the way. it grew (dark|cold), and something (howled|rustled) behind the trees.",
  );
  attempts(s, [
    "{H.auto} followed a stream, but it ended in mud.",
    "{H.auto} shouted, but only an owl answered.",
    "{H.auto} climbed a rock, but there was fog everywhere.",
  ]);
  s.beat();
  s.say(
    'then {H} saw a light between the trees. "{H}! where are you?" somebody called. it was {B}, with a lantern and (a warm coat|a piece of bread).',
  );
  s.say('"I have looked for you everywhere," said {B}. "I was so afraid for you."');
  s.sayOne(
    "{H.auto} threw {H.his} arms around {B}.",
    '"<apology: I am sorry> for what I said," whispered {H}.',
  );
  s.say("hand in hand they walked home. and the next morning, {B} gave {H} the first pancake.");
  if (s.chooser.chance(0.3)) remember(s, "you two are like two hands");
  if (s.chooser.chance(0.3)) digress(s);
  close(s, {
    lesson: "(one fights with those whom one loves|a family is a light in the dark)",
    since: "{H} and {B} stood by each other",
    home: false,
  });
}

export function brokenBridge(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  s.cast.When = "after the (storm|great rain|long winter),";
  s.say(
    "{When} the bridge over the river was broken. {H.auto} lived on one side and {F} on the other, so~cause they could not meet.",
  );
  s.say('"I miss you!" {H} shouted across the water. "I miss you too!" {F} shouted back.');
  attempts(
    s,
    [
      "they tried to throw a rope, but it was too short.",
      "{H.auto} wanted to swim, but the water was too cold and too fast.",
      "{F} built a raft of sticks, but the raft sank.",
      "they laid a long branch across, but the river took it away.",
    ],
    3,
  );
  s.beat();
  s.say(
    "the people of the village heard of it and came to help. (the farmer|the baker) brought wood, (the sailor|the teacher) brought ropes, and even the smallest children carried nails.",
  );
  s.say(
    "they worked (for three days|for a week|from dawn to night). {H.auto} built from this side, {F} built from the other, and in the middle they met.",
  );
  s.say(
    '"<greeting: hello>," said {F}. "<greeting: hello>," said {H}. then they hugged, and everyone cheered.',
  );
  s.beat();
  s.say(
    `the new bridge was stronger than the old one, and it was painted ${s.chooser.pick(COLOURS)}.`,
  );
  close(s, {
    lesson: "what is too heavy for two is light for many",
    since: "{both} met in the middle of the bridge every day",
  });
}
