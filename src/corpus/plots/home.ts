import { castElder, castFriend, castHero, castSibling, COLOURS, setDay, thing } from "../cast.ts";
import type { Teller } from "../grammar.ts";
import { attempts, close, happy, open, remember } from "../parts.ts";

/** Plots at home and in the garden: mishaps, lies, patience, a fright. */

export function brokenPot(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.When = "one (rainy|cold|quiet) (afternoon|morning),";
  const colour = s.chooser.pick(COLOURS);
  s.cast.O = thing(
    s.chooser.pick(["cup", "plate", "lamp", "bowl", "window", "jar"]),
    ...(s.chooser.chance(0.5) ? [colour] : []),
  );
  const glass = s.entity("O").noun === "window";
  if (glass) s.entity("O").adjectives = [];
  castElder(s);
  const game = s.chooser.pick(["ball", "top", "train", "kite"]);
  s.say(
    `{When} {H.auto} was playing with (a|{H.his}) ${game} in the (kitchen|house), although {M} had said not to.`,
  );
  s.sayOne(
    `crash! the ${game} hit {O.full}, and it broke into (three|five|many) pieces.`,
    `the ${game} flew too (far|high). {O.full} ${glass ? "broke" : "fell down and broke"} with a loud crash.`,
  );
  s.say(
    "{H.auto} was (afraid|scared). (what would {M} say?|{H.he} wanted to hide the pieces under the bed.|{H.he} wanted to run away.)",
  );
  s.beat();
  s.sayOne(
    'soon {M} came in. "who (did this|broke the {O.n})?" {M.he} asked.',
    'when {M} saw {O}, {M.he} asked, "what happened here?"',
  );
  const lied = s.chooser.chance(0.5);
  if (lied) {
    s.say(
      '"the (cat|wind) did it," said {H} softly. but {H.he} could not look at {M}, because {H.he} felt (ashamed|bad).',
    );
    s.say(
      "all through (dinner|supper) {H} could not eat. at last {H} (went to {M} and|stood up and) told the truth.",
    );
  } else
    s.say(
      '{H.auto} (looked at the floor|took a deep breath). "I did it," {H.he} said. "<apology: I\'m (so |very |)sorry>."',
    );
  s.sayOne(
    '{M} was not angry. "I am glad that you told me the truth," {M.he} said.',
    '"a {O.n} can be (mended|bought again)," said {M}, "but a lie hurts~ for a long time."',
  );
  s.sayOne(
    "together they (picked up|swept up) the pieces.",
    glass
      ? "together they put~ paper over the hole."
      : "then {M} found some glue, and they mended {O} together.",
  );
  close(s, {
    lesson: "(it is best to tell the truth|the truth is brave)",
    since: `{H.auto} never played with a ${game} in the house again`,
    home: false,
  });
}

export function mendToy(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.When = "one (morning|day|afternoon),";
  s.cast.O = thing(
    s.chooser.pick(["clock", "truck", "train", "boat", "drum", "bell", "doll", "lamp"]),
    s.chooser.pick(["old", "little", "wooden", "red", "blue"]),
  );
  castElder(s);
  s.say(
    "{When} {H.auto} found {O.a} in (the attic|a dusty box|an old chest). it was broken and did not (work|move) (anymore|any more).",
  );
  s.say(
    '"can we fix it?" {H} asked {M}. "(of course we can|we can try)," said {M}, "but we must be patient."',
  );
  s.beat();
  attempts(
    s,
    [
      "they tried a nail, but it was too long.",
      "they tied it with string, but the string broke.",
      "they used glue, but the glue was too wet to hold.",
      "{H.auto} shook it, but nothing happened.",
    ],
    3,
  );
  s.sayOne(
    '"it is no use~," sighed {H}. "(wait|don\'t give up)," said {M}.',
    "{H.auto} wanted to stop, but {M} (smiled|shook {M.his} head).",
  );
  s.beat();
  s.say(
    "then {H} (looked closer|noticed something). a (tiny wheel|small screw|little spring~) was in the wrong place! {H.auto} (turned it|pushed it back) (carefully|very gently).",
  );
  s.sayOne(
    "at once {O} (worked|was) as good as new.",
    "and look! {O} was as good as new, if not better.",
  );
  happy(s);
  close(s, {
    lesson: "(old things can be loved again|patient hands can mend almost everything)",
    since: "{H.auto} kept {O} next to {H.his} bed",
    home: false,
  });
}

export function lostTooth(s: Teller): void {
  castHero(s, "child");
  open(s);
  s.cast.When = "one (morning|day) at breakfast,";
  castElder(s);
  s.say(
    "{When} {H.auto} felt something funny in {H.his} mouth. a tooth was loose! it moved when {H.he} touched it.",
  );
  s.say('"will it hurt~?" asked {H}. "not more than a tickle," said {M}.');
  attempts(
    s,
    [
      "{H.auto} bit into an apple, but the tooth stayed.",
      "{H.auto} ate hard bread, but the tooth only moved a little.",
      "{H.auto} pulled at it with two fingers, but it was too slippery.",
    ],
    3,
  );
  s.beat();
  s.say(
    "then, when {H} (laughed at a joke|sneezed) and was not thinking of it at all, plop! the tooth fell out (onto the table|into the soup).",
  );
  s.say(
    "there was no pain. {H.auto} looked into the mirror and saw a (small|funny) hole. {H.auto} was very proud.",
  );
  s.sayOne(
    "that night {H} put~ the tooth under {H.his} pillow, and in the morning there was a (silver|golden) coin.",
    "{M} gave {H.him} a tiny box for the tooth.",
  );
  close(s, {
    lesson: "things are often less bad than one fears",
    since: "{H.auto} (whistled through the hole|showed the hole to everyone)",
    home: false,
  });
}

export function babyCry(s: Teller): void {
  castHero(s);
  open(s);
  castSibling(s);
  s.cast.When = "one (afternoon|morning|evening),";
  s.say("{When} {H.s} (2*little |){B.n} would not stop crying. the whole house was full of noise.");
  const tries = [
    "{H.auto} made a funny face, but {B} cried louder.",
    "{H.auto} gave {B.him} a teddy, but {B} threw it away.",
    "{H.auto} sang a song, but nobody could hear it.",
    "{H.auto} offered a spoon of soup, but {B} shook {B.his} head.",
  ];
  attempts(s, tries, 3);
  s.sayOne(
    '"what do you want?" asked {H}. but {B} was too small to answer.',
    "{H.auto} was tired and did not know what to do.",
  );
  s.beat();
  s.say(
    "then {H} looked carefully and saw (why|the reason). (a button was hurting {B.his} arm|one of {B.his} socks was wet|{B.his} blanket had fallen on the floor).",
  );
  s.say(
    "{H.auto} (put~ that right|took care of it), and at once it was silent. {B} (smiled|laughed) and held {H.s} finger.",
  );
  happy(s);
  close(s, {
    lesson: "one should look and listen before one acts",
    since: "{H.auto} was the one who understood {B} best",
  });
}

export function paintFence(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  castFriend(s);
  setDay(s, "sunny", "warm");
  s.say("{When} {H.s} {M.n} asked {H.him} to paint the (fence|gate|old barn|boat).");
  const pairs: [string, string, string][] = [
    ["blue", "yellow", "green"],
    ["red", "white", "pink"],
    ["red", "blue", "purple"],
    ["black", "white", "grey"],
  ];
  const [one, two, mixed] = s.chooser.pick(pairs);
  s.say(
    `there was a pot of ${one} paint and a pot of ${two} paint. {H.auto} liked ${one}, but {F}, who came to help, liked ${two} better.`,
  );
  s.sayOne(
    `"${one} is nicer~comparison!" said {H}. "no, ${two} is!" said {F}.`,
    "soon the two of them were shouting at each other.",
  );
  s.say("{H.auto} stepped back, tripped and fell over the pots. splash! the colours ran together.");
  s.beat();
  s.say(
    `{both} stared at the puddle. it was not ${one} and it was not ${two} (anymore|any more). it was ${mixed}!`,
  );
  s.say(
    `"${mixed} is the (finest|prettiest) colour of all," said {F}. they laughed and painted everything ${mixed}, even {F.his} (nose|shoes).`,
  );
  s.say('"how (lovely|beautiful)!" said {M} in the evening.');
  close(s, {
    lesson: "two different things can become something new",
    since: `${mixed} was their favourite colour`,
    home: false,
  });
}

export function bakeCake(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  setDay(s, "rainy", "cold", "sunny");
  const what = s.chooser.pick(["cake", "pie", "bread", "soup", "cookie"]);
  const dish = what === "cookie" ? "cookies" : what;
  const it = what === "cookie" ? "they" : "it";
  const were = what === "cookie" ? "were" : "was";
  s.say(
    `{When} {H} and {M} decided to ${what === "soup" ? "cook" : "bake"} ${what === "cake" || what === "pie" ? "a " + dish : dish}.`,
  );
  s.say(
    what === "soup"
      ? "they needed carrots, potatoes, (peas|beans) and an onion."
      : "they needed flour, (eggs|butter), milk and (sugar|honey).",
  );
  s.sayOne(
    "{H.auto} stirred and {M} poured.",
    "{H.auto} wore a hat that was much too big.",
    '"may I taste it?" asked {H}. "not yet," said {M}.',
  );
  s.beat();
  const trouble = s.chooser.index([1, 1, 1]);
  if (trouble === 0) {
    s.say(
      `but {H} took the wrong jar and put~ in ${what === "soup" ? "sugar instead of salt" : "salt instead of sugar"}. the ${dish} ${were} terrible!`,
    );
    s.say(
      '{H.auto} was ashamed, but {M} laughed. "we will (try again|make it again)," {M.he} said. "I once did the same."',
    );
  } else if (trouble === 1) {
    s.say(
      "but when they looked into the box, something was missing. there was no (salt|milk|butter) left~!",
    );
    s.say(
      `{H.auto} ran to the neighbour and knocked. "of course you can have some," said the neighbour, "if I may have a bit of your ${dish}."`,
    );
  } else {
    s.say("but they sang and danced and forgot the time. soon there was smoke in the kitchen!");
    s.say(
      `the ${dish} ${were} black on one side. they took the good part and covered it with ${what === "soup" ? "cheese" : "(cream|berries|jam)"}.`,
    );
  }
  s.beat();
  s.say(
    `in the end, ${it} smelled wonderful and tasted (even better|delicious). the whole family sat around the table and ate until nothing was left~.`,
  );
  close(s, {
    lesson: "mistakes are allowed in a kitchen",
    since: `they ${what === "soup" ? "cooked" : "baked"} on every rainy day`,
    home: false,
  });
}

export function greedy(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  s.cast.O = thing(s.chooser.pick(["pie", "cake", "pot", "jar"]), "big");
  const jar = ["pot", "jar"].includes(s.entity("O").noun);
  s.cast.When = "one (day|afternoon|morning),";
  s.say(
    `{When} {H.s} {M.n} ${jar ? "filled {O.a} with honey" : "made {O.a}"} for the whole family and put~ it on the table. "don't touch it before dinner," said {M}.`,
  );
  s.say(
    "but it smelled so~ good. {H.auto} took a tiny bit. then {H.he} took another bit. and then one more.",
  );
  s.say("soon {O} was almost empty, and {H.s} tummy was as round as a ball.");
  s.beat();
  s.say('at dinner, {H} was not hungry. "what is wrong?" asked {M}. "my tummy hurts~," said {H}.');
  s.say(
    "{M} looked at {O} and understood. {M.auto} was not angry, but {M.he} gave {H} a cup of (bitter|very bitter) tea.",
  );
  s.sayOne(
    '"there is nothing left~ for the others," said {M}. {H.auto} was ashamed.',
    '{H.auto} looked at {H.his} family, who had only bread for dinner. "<apology: I\'m sorry>," {H.he} said.',
  );
  s.beat();
  s.say(
    `the next day, {H} got up early and ${jar ? "filled {O} again" : "baked a new {O.n}"} for everyone. this time {H.he} took ${jar ? "only one spoon" : "the smallest piece"}.`,
  );
  close(s, {
    lesson: "too much of a good thing is not good",
    since: "{H.auto} waited until everyone was at the table",
    home: false,
  });
}

export function plantSeed(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  const crop = s.chooser.pick(["sunflower", "bean", "pumpkin", "tulip", "carrot", "apple tree"]);
  s.cast.When = "(in spring|one morning in spring|when the snow had melted),";
  s.say(
    `{When} {M} gave {H.autohim} a (tiny|small|brown) seed. "what is it?" asked {H}. "wait and see," said {M}.`,
  );
  s.say("{H.auto} dug a hole in the garden, put~ the seed into it and poured water on it.");
  s.beat();
  attempts(
    s,
    [
      "{H.auto} looked on the next day, but there was nothing to see.",
      "{H.auto} sang to the seed, but nothing grew.",
      '{H.auto} wanted to dig it up again, but {M} said, "be patient."',
      "a week passed, and the ground was still bare.",
    ],
    3,
  );
  s.say(
    "{H.auto} watered it every (morning|evening|day) and pulled the weeds. it rained, and the sun shone.",
  );
  s.beat();
  s.say(
    "then, one morning, there was something green, no bigger than (a finger|a button)! {H.auto} shouted (so loudly|with joy) that (the birds flew up|the whole house woke).",
  );
  const end: Record<string, string> = {
    sunflower: "by summer it was taller than {H}, and it had a golden face. it was a sunflower!",
    bean: "it climbed up a stick and over the roof. soon there were beans for the whole family!",
    pumpkin:
      "it grew round and heavy. in autumn it was so big that two people could not lift it. it was a pumpkin!",
    tulip: `it opened slowly, and it was ${s.chooser.pick(COLOURS.slice(0, 5))}. it was a tulip!`,
    carrot:
      "{H.auto} pulled at the leaves, and out came a long carrot. it was sweeter than any other carrot!",
    "apple tree":
      "it grew slowly, year after year. when {H} was tall, so was the tree, and it was full of red apples.",
  };
  s.say(end[crop]);
  happy(s);
  close(s, {
    lesson: "(good things take time|patience makes things grow)",
    since:
      crop === "apple tree"
        ? "the children of the village played under the tree"
        : "{H.auto} planted a seed every spring",
    home: false,
  });
}

export function storm(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.When = "one (stormy|rainy|dark) night,";
  s.sayOne(
    "{When} {H.auto} could not sleep. thunder crashed, and the rain knocked at the window.",
    "{When} {H} lay in bed and listened to the wind. it howled around the house.",
  );
  const what = s.chooser.index([1, 1, 1, 1]);
  const sound = ["a scratching sound", "a knock", "a sad voice", "a strange noise"][what];
  const where = ["at the door", "at the window", "under the bed", "in the kitchen"][what];
  s.say(
    `then there was ${sound} ${where}. (what could it be?|was it a monster?|was somebody there?) {H} (pulled the blanket over {H.his} head|was so scared that {H.he} held {H.his} breath).`,
  );
  const tries = s.chooser.chance(0.6);
  if (tries) remember(s, "fear is big in the dark but small in the light");
  s.say(
    `{H.auto} took a (lantern|candle|lamp) and ${what === 2 ? "looked under the bed" : what === 3 ? "tiptoed to the kitchen" : what === 1 ? "went to the window" : "opened the door"} (slowly|very slowly|with shaking hands).`,
  );
  s.beat();
  const found = [
    "a wet dog, who wanted to come in from the rain",
    "a branch of the old apple tree, which the wind was shaking",
    "a tiny kitten, who was even more afraid of the storm",
    "a mouse with a piece of cheese, who was as frightened as {H}",
  ][what];
  s.say(`it was only ${found}! {H.auto} began to laugh.`);
  if (what === 0 || what === 2)
    s.say(
      `"come here," said {H}. {H.auto} dried it with a towel, and the ${what === 0 ? "dog" : "kitten"} slept (next to {H.him}|at {H.his} feet) until morning.`,
    );
  else if (what === 1)
    s.say("{H.auto} waved to the branch and closed the curtain. the branch waved back.");
  else s.say('"you may keep it," said {H}. the mouse thanked {H.him} and ran into its hole.');
  close(s, {
    lesson:
      "(many things are less terrible when one looks at them|to be brave is to look although one is afraid)",
    since: "{H.auto} was not afraid of storms anymore",
    home: false,
  });
}
