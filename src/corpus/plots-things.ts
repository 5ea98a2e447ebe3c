import { castAnimal, castElder, castFriend, castHero, castMany, castObject, castSibling, COLOURS, setDay, setPlace, someone, thing } from "./cast.ts"; // prettier-ignore
import type { Teller } from "./grammar.ts";
import { attempts, close, digress, happy, open, remember, sad, thank } from "./parts.ts";

/** Plots about things: lost, broken, shared, given, made. */

function goTo(s: Teller): void {
  s.sayOne(
    "{When} {H.auto} went {to}.",
    "{When} {H.auto} (walked|ran|hurried) {to}.",
    "{When} {H} was playing {at}.",
  );
}

export function lostThing(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "park", "beach", "forest", "garden", "meadow", "farm", "market", "hill");
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
    "after (an|a) hour of play, {H} noticed that {O} was not there (anymore|any more).",
    "suddenly {H} cried, \"oh no! where is my {O.n}?\"",
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
    castAnimal(s, place.animals.filter((kind) => kind !== "fish" && kind !== "snail"));
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
    s.say("(two pairs of eyes are better than one, and soon|after a while) {F} saw something {O.adj} {spot}. it was {O.full}!");
    thank(s, "H", "F");
  } else {
    remember(s, "go back to where you had it");
    s.say("{H.auto} closed {H.his} eyes and thought hard. {H.he} had been sitting {spot}! {H.auto} (ran|hurried) there, and there was {O.full}.");
  }
  happy(s);
  close(s, {
    lesson: "(good friends help when something is lost|it is better to think than to cry)",
    since: "{H.auto} always kept {O.full} (close|in a safe place)",
  });
}

export function shareToy(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "park", "garden", "school", "beach", "meadow");
  setDay(s);
  castObject(s, "toy");
  castFriend(s);
  s.sayOne("{When} {H.auto} was playing with {O.a} {at}.", "{When} {H.auto} took {H.his} {O.an} {to}.");
  digress(s, place);
  s.say('{F} came (along|by|over) and asked, "(may|can) I play with your {O.n}(| too)?"');
  s.sayOne('"no!" said {H}. "it is mine!"', "but {H} did not want to share and held {O} (tight|behind {H.his} back).");
  s.say("{F} (went away|left) and sat down alone. {F.he} (looked at {F.his} feet|was very sad|said nothing).");
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
  s.say("{F} (smiled|nodded) and (stood|jumped) up. {both} played with {O} until (the sun went down|it was time for (lunch|dinner)).");
  close(s, { lesson: "(sharing makes a game better|playing together is better than playing alone)", since: "{both} shared (everything|all their toys)" });
}

export function brokenPot(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.When = "one (rainy|cold|quiet) (afternoon|morning),";
  const colour = s.chooser.pick(COLOURS);
  s.cast.O = thing(s.chooser.pick(["cup", "plate", "lamp", "bowl", "window", "jar"]), ...(s.chooser.chance(0.5) ? [colour] : []));
  const glass = s.entity("O").noun === "window";
  if (glass) s.entity("O").adjectives = [];
  castElder(s);
  const game = s.chooser.pick(["ball", "top", "train", "kite"]);
  s.say(`{When} {H.auto} was playing with (a|{H.his}) ${game} in the (kitchen|house), although {M} had said not to.`);
  s.sayOne(
    `crash! the ${game} hit {O.full}, and it broke into (three|five|many) pieces.`,
    `the ${game} flew too (far|high). {O.full} ${glass ? "broke" : "fell down and broke"} with a loud crash.`,
  );
  s.say("{H.auto} was (afraid|scared). (what would {M} say?|{H.he} wanted to hide the pieces under the bed.|{H.he} wanted to run away.)");
  s.beat();
  s.sayOne('soon {M} came in. "who (did this|broke the {O.n})?" {M.he} asked.', 'when {M} saw {O}, {M.he} asked, "what happened here?"');
  const lied = s.chooser.chance(0.5);
  if (lied) {
    s.say('"the (cat|wind) did it," said {H} softly. but {H.he} could not look at {M}, because {H.he} felt (ashamed|bad).');
    s.say("all through (dinner|supper) {H} could not eat. at last {H} (went to {M} and|stood up and) told the truth.");
  } else s.say('{H.auto} (looked at the floor|took a deep breath). "I did it," {H.he} said. "<apology: I\'m (so |very |)sorry>."');
  s.sayOne(
    '{M} was not angry. "I am glad that you told me the truth," {M.he} said.',
    '"a {O.n} can be (mended|bought again)," said {M}, "but a lie hurts~ for a long time."',
  );
  s.sayOne("together they (picked up|swept up) the pieces.", glass ? "together they put~ paper over the hole." : "then {M} found some glue, and they mended {O} together.");
  close(s, { lesson: "(it is best to tell the truth|the truth is brave)", since: `{H.auto} never played with a ${game} in the house again`, home: false });
}

export function mendToy(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.When = "one (morning|day|afternoon),";
  s.cast.O = thing(s.chooser.pick(["clock", "truck", "train", "boat", "drum", "bell", "doll", "lamp"]), s.chooser.pick(["old", "little", "wooden", "red", "blue"]));
  castElder(s);
  s.say("{When} {H.auto} found {O.a} in (the attic|a dusty box|an old chest). it was broken and did not (work|move) (anymore|any more).");
  s.say('"can we fix it?" {H} asked {M}. "(of course we can|we can try)," said {M}, "but we must be patient."');
  s.beat();
  attempts(s, [
    "they tried a nail, but it was too long.",
    "they tied it with string, but the string broke.",
    "they used glue, but the glue was too wet to hold.",
    "{H.auto} shook it, but nothing happened.",
  ], 3);
  s.sayOne('"it is no use~," sighed {H}. "(wait|don\'t give up)," said {M}.', "{H.auto} wanted to stop, but {M} (smiled|shook {M.his} head).");
  s.beat();
  s.say("then {H} (looked closer|noticed something). a (tiny wheel|small screw|little spring) was in the wrong place! {H.auto} (turned it|pushed it back) (carefully|very gently).");
  s.sayOne("at once {O} (worked|was) as good as new.", "and look! {O} was as good as new, if not better.");
  happy(s);
  close(s, { lesson: "(old things can be loved again|patient hands can mend almost everything)", since: "{H.auto} kept {O} next to {H.his} bed", home: false });
}

export function gift(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  s.say("{H.auto} wanted to give {F} something (special|nice) for {F.his} birthday.");
  s.sayOne("{H.auto} had no money, so~cause {H.he} could not buy a gift.", "but {H} had only (one coin|two coins), and that was not enough for (a gift|a toy) at the market.");
  s.beat();
  const made = s.chooser.index([1, 1, 1, 1]);
  if (made === 0) {
    s.say("{H.auto} took paper and paint and drew a picture of the two of them (under a rainbow|in a boat|on a hill).");
    s.cast.G = thing("picture");
  } else if (made === 1) {
    s.say("{H.auto} went to the beach and collected shells. {H.auto} tied them on a long string, one after the other, from the smallest to the biggest.");
    s.cast.G = thing("necklace");
  } else if (made === 2) {
    s.say("{H.auto} baked (a little cake|a bun) with (berries|nuts and honey). it was not very (round|pretty), but it smelled delicious.");
    s.cast.G = thing(s.chooser.pick(["cake"]));
  } else {
    s.say("{H.auto} made up a song about {F} and practised it all (day|morning), until even the birds knew it.");
    s.cast.G = thing("song");
  }
  s.sayOne("{H.auto} worked (so hard|so long) that {H.he} forgot to eat.", "it took the whole afternoon, but {H} did not mind.");
  s.beat();
  s.say('at the party, the others gave {F} (big|expensive|shiny) things. {H.auto} was (nervous|worried). "mine is only small," {H.he} said.');
  if (made === 3) s.say("then {H} sang {G}. everyone was silent, and {F} had tears of joy in {F.his} eyes.");
  else s.say("{F} opened the paper and saw {G}. {F.his} eyes (shone|grew wide).");
  s.say('"this is the (best|nicest~comparison|finest) gift of all," said {F}, "because you made it (yourself|for me)."');
  close(s, { lesson: "a gift from the heart is the best gift", since: "{F} " + (made === 3 ? "hummed {G} whenever {F.he} was sad" : made === 2 ? "asked for the same cake every year" : "kept {G} near {F.his} bed") });
}

export function library(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "library");
  setDay(s, "rainy", "cold", "cloudy");
  s.cast.L = someone("librarian", s.chooser.pick(["she", "he"]));
  s.say(`{When} {H.auto} went {to} to find a book about ${topic(s)}.`);
  digress(s, place);
  attempts(s, [
    "{H.auto} looked on the first shelf, but there were only books about (cooking|trees).",
    "{H.auto} climbed a ladder, but the top shelf was empty.",
    "{H.auto} pulled out a thick book, but it had no pictures.",
  ]);
  s.say('"<greeting: hello>, can I help you?" whispered {L}. {H.auto} told {L.him} what {H.he} was looking for.');
  s.beat();
  s.say(`{L} led {H.him} to a quiet corner, where an old ${s.cast.colour as string} book was lying ${s.chooser.pick(["under a chair", "on the lowest shelf", "beside a lamp"])}.`);
  s.say(`{H.auto} sat down and read~past_tense_verb. the book told of ${s.cast.topic as string}, and {H} forgot the (time|hour).`);
  s.sayOne('"may I take it home?" asked {H}. "yes, if you bring it back next week," said {L}.', '"we close in five minutes," said {L}. {H.auto} could not believe it.');
  thank(s, "H", "L");
  close(s, { lesson: "a book can take you (anywhere|further than any ship)", since: "{H.auto} went to the library every week" });
}

function topic(s: Teller): string {
  s.cast.topic = s.chooser.pick(["dragons", "pirates", "the stars", "a lonely giant", "bears", "the sea"]);
  s.cast.colour = s.chooser.pick(COLOURS);
  return s.cast.topic;
}

export function treasureMap(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  s.cast.When = "one (day|morning|rainy day),";
  s.say("{When} {H.auto} found an old map (in a bottle|under the floor|in a book|in the attic). there was a red cross~ on it.");
  s.say('{H.auto} showed it to {F}. "it must be a treasure!" {F} (cried|whispered|said).');
  s.sayOne("they packed bread, a rope and a lantern and left at once.", "they took a shovel and a (rope|lantern) and followed the path on the map.");
  s.beat();
  attempts(s, [
    "they crossed a narrow bridge over a deep river.",
    "they climbed a hill that was so steep that they had to hold hands.",
    "they walked through a dark forest, where owls were hooting.",
    "they came to a cave, and it was as dark as night inside.",
  ], 3);
  s.sayOne('"are you afraid?" asked {F}. "a little," said {H}, "but not when you are with me."', "{F} wanted to turn back, but {H} took {F.his} hand.");
  s.beat();
  s.cast.spot = "(under a tall oak|behind a waterfall|between two white rocks)";
  s.say("at last they found the place, {spot}. they dug and dug until the shovel hit something hard. it was a chest!");
  const kind = s.chooser.index([1, 1, 1]);
  if (kind === 0) s.say("inside there was no gold, only a letter: \"the real treasure is the friend who came with you.\" {both} looked at each other and laughed.");
  else if (kind === 1) s.say("the chest was full of (golden|silver) coins. {both} gave most of them to the (poor people|school) in the village and bought (a boat|a pony|two bikes) with the rest~.");
  else s.say("inside lay (a golden crown|a white pearl|a silver bell) and a note. the queen had lost it many years ago. {both} brought it back to the castle, and the queen gave them a feast.");
  close(s, { lesson: "(friends are the best treasure|an adventure is better with a friend)", since: "{both} went on many adventures together" });
}

export function kiteStuck(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "park", "hill", "meadow", "beach");
  setDay(s, "windy");
  s.cast.O = thing("kite", s.chooser.pick(COLOURS));
  const balloon = s.chooser.chance(0.25);
  if (balloon) s.entity("O").noun = "balloon";
  s.say("{When} {H.auto} went {to} with {H.his} (new|big) {O.an}. {O} flew higher than the (trees|birds|roofs).");
  digress(s, place);
  s.say("suddenly the wind (pulled|blew) too hard. the string (broke|slipped out of {H.his} hand), and {O} got stuck in a tall tree.");
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
    s.say('{P.a} was sitting in the tree. "(may I help|shall I help you)?" it asked. it pulled at the string with its (mouth|feet), and {O} (floated|fell) down.');
    thank(s, "H", "P");
  } else if (turn === 1) {
    s.cast.S = someone("man", "he", "tall");
    s.entity("S").noun = s.chooser.pick(["farmer", "gardener", "painter", "neighbour"]);
    s.say("{S.a} with a long ladder came by. {S.he} climbed up and (brought|handed) {O} back to {H}.");
    thank(s, "H", "S");
  } else {
    castFriend(s);
    s.say('"climb on my shoulders!" said {F}. {H.auto} climbed up, reached for the string and pulled. {O} was free!');
    thank(s, "H", "F");
  }
  close(s, { lesson: "(one is never too proud to ask for help|together one is taller than alone)", since: "{H.auto} held the string with both hands" });
}

export function magicThing(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "forest", "beach", "meadow", "river");
  setDay(s);
  castObject(s, "treasure");
  goTo(s);
  digress(s, place);
  s.cast.spot = s.chooser.pick(place.spots);
  s.say('{spot}, {H} found {O.a}. when {H.he} touched it, it began to glow. "<magic: I am magic>," said {O}. "make one wish!"');
  const wish = s.chooser.index([1, 1, 1, 1]);
  const wishes = ["to fly like a bird", "to be as big as a giant", "to have all the cakes in the world", "to talk with the animals"];
  s.say(`{H.auto} thought for a (moment|minute). "I wish ${wishes[wish]}!" {H.he} (said|cried).`);
  s.beat();
  if (wish === 0) s.say("at once {H} had (two white|two little|golden) wings! {H.auto} flew over the village and through a cloud. but it was cold up there, and (nobody|no one) could (play|fly) with {H.him}.");
  else if (wish === 1) s.say("{H.auto} grew and grew until {H.his} head was above the trees. but now {H.his} bed was too small, the door was too narrow, and everyone ran away from {H.him}.");
  else if (wish === 2) s.say("cakes fell from the sky, hundreds of cakes! {H.auto} ate and ate. soon {H.his} tummy hurt~past_tense_verb, and the whole street was full of cream.");
  else s.say("now {H} understood every word. the birds talked about the weather, the bees talked about flowers, and the cows talked about grass. all of them talked at once, and {H} could not sleep.");
  s.beat();
  s.sayOne('"I want to be (as before|myself again)," {H} said at last. "please, {O.call}!"', '"oh dear," sighed {H}. "I don\'t want this anymore."');
  s.say("{O} glowed once more, and everything was as it had been.");
  s.sayOne("{H.auto} put~ {O} back where it had been, {spot}.", "{H.auto} left {O} for somebody else and ran home.");
  close(s, { lesson: "(a wish should be chosen with care|it is good to be just as you are)", since: "{H.auto} was happy with what {H.he} had" });
}

export function lostTooth(s: Teller): void {
  castHero(s, "child");
  open(s);
  s.cast.When = "one (morning|day) at breakfast,";
  castElder(s);
  s.say("{When} {H.auto} felt something funny in {H.his} mouth. a tooth was loose! it moved when {H.he} touched it.");
  s.say('"will it hurt~?" asked {H}. "not more than a tickle," said {M}.');
  attempts(s, ["{H.auto} bit into an apple, but the tooth stayed.", "{H.auto} ate hard bread, but the tooth only moved a little.", "{H.auto} pulled at it with two fingers, but it was too slippery."], 3);
  s.beat();
  s.say("then, when {H} (laughed at a joke|sneezed) and was not thinking of it at all, plop! the tooth fell out (onto the table|into the soup).");
  s.say("there was no pain. {H.auto} looked into the mirror and saw a (small|funny) hole. {H.auto} was very proud.");
  s.sayOne("that night {H} put~ the tooth under {H.his} pillow, and in the morning there was a (silver|golden) coin.", "{M} gave {H.him} a tiny box for the tooth.");
  close(s, { lesson: "things are often less bad than one fears", since: "{H.auto} (whistled through the hole|showed the hole to everyone)", home: false });
}

export function paintFence(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  castFriend(s);
  setDay(s, "sunny", "warm");
  s.say("{When} {H.s} {M.n} asked {H.him} to paint the (fence|gate|old barn|boat).");
  const pairs: [string, string, string][] = [["blue", "yellow", "green"], ["red", "white", "pink"], ["red", "blue", "purple"], ["black", "white", "grey"]];
  const [one, two, mixed] = s.chooser.pick(pairs);
  s.say(`there was a pot of ${one} paint and a pot of ${two} paint. {H.auto} liked ${one}, but {F}, who came to help, liked ${two} better.`);
  s.sayOne(`"${one} is nicer~comparison!" said {H}. "no, ${two} is!" said {F}.`, "soon the two of them were shouting at each other.");
  s.say("{H.auto} stepped back, tripped and fell over the pots. splash! the colours ran together.");
  s.beat();
  s.say(`{both} stared at the puddle. it was not ${one} and it was not ${two} (anymore|any more). it was ${mixed}!`);
  s.say(`"${mixed} is the (finest|prettiest) colour of all," said {F}. they laughed and painted everything ${mixed}, even {F.his} (nose|shoes).`);
  s.say('"how (lovely|beautiful)!" said {M} in the evening.');
  close(s, { lesson: "two different things can become something new", since: `${mixed} was their favourite colour`, home: false });
}

export function babyCry(s: Teller): void {
  castHero(s);
  open(s);
  castSibling(s);
  s.cast.When = "one (afternoon|morning|evening),";
  s.say("{When} {H.s} (2*little |){B.n} would not stop crying. the whole house was full of noise.");
  const tries = ["{H.auto} made a funny face, but {B} cried louder.", "{H.auto} gave {B.him} a teddy, but {B} threw it away.", "{H.auto} sang a song, but nobody could hear it.", "{H.auto} offered a spoon of soup, but {B} shook {B.his} head."];
  attempts(s, tries, 3);
  s.sayOne('"what do you want?" asked {H}. but {B} was too small to answer.', "{H.auto} was tired and did not know what to do.");
  s.beat();
  s.say("then {H} looked carefully and saw (why|the reason). (a button was hurting {B.his} arm|one of {B.his} socks was wet|{B.his} blanket had fallen on the floor).");
  s.say("{H.auto} (put~ that right|took care of it), and at once it was silent. {B} (smiled|laughed) and held {H.s} finger.");
  happy(s);
  close(s, { lesson: "one should look and listen before one acts", since: "{H.auto} was the one who understood {B} best" });
}

export function countMarbles(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  const many = castMany(s, ["apple", "cookie", "marble", "nut", "plum", "berry"]);
  many.count = s.chooser.pick(["four", "six", "eight", "ten"]);
  const half = { four: "two", six: "three", eight: "four", ten: "five" }[many.count]!;
  s.cast.S = someone("neighbour", s.chooser.pick(["she", "he"]), s.chooser.pick(["old", "friendly", "kind"]));
  setDay(s);
  s.say("{When} {S.a} gave {both} a bag with {N.count}(| as thanks~thanks for their help).");
  s.say('"I spoke first, so~cause I should get more," said {F}. "no, I carried the bag!" said {H}.');
  s.sayOne("they pulled at the bag, one from each side, until it tore. {N} rolled (down the street|all over the floor)!", "they were so angry that neither of them looked at the bag. it fell, and {N} rolled away!");
  s.beat();
  s.say("they had to crawl around to find {N.him}: one under a bench, one behind a door, one in a puddle.");
  s.say(`when they had found the last one, they were laughing. "let's count," said {H}. "{N.count}! that is ${half} for you and ${half} for me."`);
  s.say("{F} (nodded|agreed). it was so easy(|, after all).");
  close(s, { lesson: "half of something is better than all of nothing", since: "{both} (always counted first|shared everything fairly)" });
}
