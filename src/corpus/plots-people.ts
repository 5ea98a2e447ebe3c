import { castAnimal, castElder, castFriend, castHero, castSibling, COLOURS, setDay, setPlace, someone, thing } from "./cast.ts"; // prettier-ignore
import type { Teller } from "./grammar.ts";
import { attempts, close, digress, happy, open, remember, sad, thank } from "./parts.ts";

/** Plots about people: learning, work and feasts, strangers, wonders. */

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
  s.sayOne(`{When} {H.auto} decided to learn ${skill}.`, `all {H.s} friends knew how ${skill}, but {H} did not.`);
  s.say(`at first it was (hard|very hard). {H.auto} tried, but ${failure}.`);
  s.sayOne('"I can\'t do it!" {H.auto} (cried|shouted).', '"I will never learn it," {H.auto} said (sadly|angrily).');
  s.say('"nobody can do it on the first day," said {M}. "try (once more|again), and I will (watch|help) you."');
  s.beat();
  s.sayOne("{H.auto} practised on Monday, on Tuesday and on Wednesday.", "{H.auto} practised every day after (school|breakfast).", "so~cause {H} tried again, and again, and again.");
  s.say("each time it was a little (better|easier), although {H} still made mistakes.");
  s.beat();
  s.say(`then, (one morning|at last|on the seventh day), it worked. {H.auto} ${did} without any help! "look at me!" {H.he} (cried|shouted).`);
  s.say("{M} clapped {M.his} hands. {H.auto} was very proud.");
  close(s, { lesson: "(practice helps|one must try more than once)", since: `{H.auto} taught other children ${skill}`, home: false });
}

export function newAtSchool(s: Teller): void {
  castHero(s, "child");
  open(s);
  setPlace(s, "school");
  castFriend(s).known = true;
  s.cast.T = someone("teacher", s.chooser.pick(["she", "he"]));
  s.cast.When = "(one morning|on Monday|after the summer),";
  s.say('{When} the teacher came in with a new child. "this is {F}," {T.he} said. "please say <greeting: hello>."');
  s.sayOne("{F} was so shy that {F.he} looked at the floor.", "{F} did not speak, and {F.his} hands were shaking.");
  s.say("at (noon|lunch), {F} sat alone (by the window|under a tree|at the last table). nobody talked to {F.him}.");
  s.sayOne("{H.auto} saw it and felt sorry~ for {F.him}.", "{H.auto} remembered how lonely {H.he} had been on {H.his} own first day.");
  s.beat();
  s.say('{H.auto} went over. "<greeting: hi>, I am {H}," {H.he} said. "do you like (drawing|apples|dragons|stories about pirates)?"');
  s.say("{F} looked up. \"yes,\" {F.he} (whispered|said), \"(very much|more than anything).\" {H} (shared {H.his} lunch with {F.him}|sat down next to {F.him}), and they talked until the bell rang.");
  s.beat();
  s.sayOne("the next day, {F} was the first to laugh.", "a week later, {F} had many friends, but {H} was the best of them.");
  close(s, { lesson: "one friendly word can change a day", since: "{both} sat side by side" });
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
  s.say(`{When} {H} and {M} decided to ${what === "soup" ? "cook" : "bake"} ${what === "cake" || what === "pie" ? "a " + dish : dish}.`);
  s.say(what === "soup" ? "they needed carrots, potatoes, (peas|beans) and an onion." : "they needed flour, (eggs|butter), milk and (sugar|honey).");
  s.sayOne("{H.auto} stirred and {M} poured.", "{H.auto} wore a hat that was much too big.", '"may I taste it?" asked {H}. "not yet," said {M}.');
  s.beat();
  const trouble = s.chooser.index([1, 1, 1]);
  if (trouble === 0) {
    s.say(`but {H} took the wrong jar and put~ in ${what === "soup" ? "sugar instead of salt" : "salt instead of sugar"}. the ${dish} ${were} terrible!`);
    s.say('{H.auto} was ashamed, but {M} laughed. "we will (try again|make it again)," {M.he} said. "I once did the same."');
  } else if (trouble === 1) {
    s.say("but when they looked into the box, something was missing. there was no (salt|milk|butter) left~!");
    s.say(`{H.auto} ran to the neighbour and knocked. "of course you can have some," said the neighbour, "if I may have a bit of your ${dish}."`);
  } else {
    s.say("but they sang and danced and forgot the time. soon there was smoke in the kitchen!");
    s.say(`the ${dish} ${were} black on one side. they took the good part and covered it with ${what === "soup" ? "cheese" : "(cream|berries|jam)"}.`);
  }
  s.beat();
  s.say(`in the end, ${it} smelled wonderful and tasted (even better|delicious). the whole family sat around the table and ate until nothing was left~.`);
  close(s, { lesson: "mistakes are allowed in a kitchen", since: `they ${what === "soup" ? "cooked" : "baked"} on every rainy day`, home: false });
}

export function race(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  castFriend(s, "R");
  setDay(s, "sunny", "windy", "cloudy");
  setPlace(s, "hill", "meadow", "park", "beach");
  s.say(`{When} there was a race {at}. {H.name}, {F.name} and {R.name} stood at the line. {R} was the fastest of all and said so~ (often|to everyone).`);
  s.say('"you are too slow," {R} said to {H}. {H.auto} said nothing.');
  s.say("one, two, three, go! {R} was in front at once. {F.auto} was second, and {H} was last.");
  s.beat();
  const turn = s.chooser.index([1, 1, 1]);
  if (turn === 0) {
    s.say("after half of the way, {R} was so far ahead that {R.he} sat down to (rest|eat an apple) and fell asleep. {H.auto} walked past {R.him}, step by step, without a sound.");
    s.say("when {R} woke up, {H} had already won. everybody cheered.");
    s.say(`"I was (foolish|too proud)," said {R}. "you have won because you did not stop."`);
  } else if (turn === 1) {
    s.say("but then {F} fell and hurt~ {F.his} knee. {R} ran on. {H.auto} could have won second prize, but {H.he} stopped.");
    s.say('"can you stand up?" {H} asked and (gave {F.him} a hand|took {F.his} arm). slowly they walked to the end together, last of all.');
    s.say(`the crowd cheered louder for them than for {R}, and the judge gave them a ${s.chooser.pick(COLOURS)} ribbon.`);
  } else {
    s.say("but at the stream, {R} did not dare to jump. \"it is too deep,\" {R.he} said. {H} and {F} waited for {R.him}. they found a log and made a bridge.");
    s.say("so~cause it happened that all three came in at the same moment. \"who is the winner?\" asked the judge. \"all of us!\" they shouted.");
  }
  happy(s);
  close(s, { lesson: "(being first is not everything|slow and steady steps go far)", since: "{R} was (kinder|less proud) to the others" });
}

export function dragon(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.D = { noun: s.chooser.pick(["dragon", "giant", "monster"]), adjectives: [s.chooser.pick(["huge", "old", "terrible"])], pronoun: "it" };
  const giant = s.entity("D").noun === "giant";
  if (giant) s.entity("D").pronoun = "he";
  s.say(`in (a dark cave|the mountains|an old tower) near the village lived {D.a}. everyone was afraid of {D.him}, because {D.he} (roared|growled) every night.`);
  s.sayOne('"somebody must go there," said the people, but nobody wanted to go. "I will go," said {H}.', "{H.auto} was afraid as~ well, but {H.he} was also curious.");
  s.say("{H.auto} took (a lantern and some bread|a loaf of bread|a flute) and climbed up the path. {H.his} heart was beating (like a drum|fast).");
  s.beat();
  s.say('there sat {D}, but {D.he} was crying. "why do you cry?" asked {H}.');
  const why = s.chooser.index([1, 1, 1]);
  s.say(["\"I have a thorn in my foot,\" said {D}, \"and it hurts~ at night.\"", "\"I am so lonely,\" said {D}. \"when I say <greeting: hello>, everyone runs away.\"", "\"I have lost my teddy,\" said {D}, \"and I can't sleep without it.\""][why]);
  s.say([
    "{H.auto} took hold of the thorn with both hands and pulled. out it came! {D} sighed with joy.",
    '"then come with me," said {H}, "and say it more softly." {D} tried. "<greeting: hello>," {D.he} whispered. it was much better.',
    "{H.auto} searched the whole place, and behind a rock {H.he} found a teddy as big as a cow. {D} hugged it (tight|with both arms).",
  ][why]);
  s.beat();
  s.say("when the two came down to the village, people (hid behind their doors|screamed). \"don't be afraid,\" said {H}. \"{D.he} is my friend.\"");
  s.say(`soon the children were (riding on {D.his} back|sliding down {D.his} back), and {D} (${giant ? "mended the roofs" : "lit the lamps"}|carried wood) in winter.`);
  close(s, { lesson: "(those who roar may need a friend|one should ask before one is afraid)", since: "nobody in the village was afraid of {D}" });
}

export function sadKing(s: Teller): void {
  castHero(s);
  open(s);
  const queen = s.chooser.chance(0.5);
  s.cast.K = someone(queen ? "queen" : "king", queen ? "she" : "he", "old");
  s.say("in the castle on the hill lived {K.a} who never laughed. {K.he} had (gold|jewels) and horses, but {K.he} was always sad.");
  s.say('"whoever makes me laugh," said {K}, "may have (a wish|a horse|the golden crown)."');
  attempts(s, ["a singer sang a merry song, but {K} only yawned.", "a wizard pulled a rabbit out of a hat, but {K} shook {K.his} head.", "a baker brought a cake as tall as a tower, but {K} was not hungry.", "three monkeys danced on a rope, but {K} looked out of the window."], 3);
  s.beat();
  s.say("then {H} came (to the castle|through the gate), because {H.he} (wanted to help|felt sorry~ for {K.him}).");
  const how = s.chooser.index([1, 1, 1]);
  s.say([
    "{H.auto} bowed so~ low that {H.his} hat fell off. a hen jumped into it and laid an egg.",
    '{H.auto} asked, "has anyone ever played with you?" {K} shook {K.his} head. so~cause they played hide and seek, and {K} hid under the table with {K.his} feet sticking out.',
    "{H.auto} brought a puppy, who ran off with {K.his} shoe and would not give it back.",
  ][how]);
  s.say("first {K} smiled. then {K.he} giggled. and then {K.he} laughed so loudly that the windows shook.");
  s.say('"what is your wish?" asked {K}. "(come and visit us|play with us every week)," said {H}, "because laughing is better together."');
  close(s, { lesson: "(joy cannot be bought|a laugh is worth more than gold)", since: "{K} laughed at least once a day" });
}

export function sickFriend(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  setDay(s, "rainy", "cold", "windy", "snowy");
  s.say("{When} {H.auto} waited for {F} at the (corner|bridge|gate), but {F} did not come.");
  s.say('{H.auto} went to {F.s} house and knocked. "{F} is sick," said {F.his} mother. "{F.he} has to stay in bed."');
  s.sayOne("{H.auto} was worried.", "{H.auto} went home with a heavy~ heart.");
  s.say("what could {H} do? {H.he} thought and thought.");
  s.beat();
  s.say("then {H.he} had an idea. {H.auto} (cooked a pot of soup|baked a bun with honey|drew a funny picture|wrote a long letter) and brought it to {F}.");
  s.say("{H.auto} also told {F} (a story about a dancing cow|everything that had happened at school|three very bad jokes). {F.auto} laughed until the bed shook.");
  s.say('"I feel better already," said {F}.');
  s.beat();
  s.sayOne("(three|two) days later, {F} stood at the gate again, with red cheeks.", "a week later it was {H} who was sick. and who came with soup? it was {F}!");
  close(s, { lesson: "a visit can be the best medicine", since: "{both} took care of each other" });
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
  s.say(`{When} {M} gave {H.autohim} a basket and (two|three|five) coins. "please buy ${first}, ${second} and ${third}," said {M}.`);
  s.say(`"${first}, ${second} and ${third}," {H} said again and again on the way, so that {H.he} would not forget.`);
  s.say("but then {H} saw (a rainbow|a parrot|a man on a very tall bike|two dogs in hats) and stopped to look. when {H.he} walked on, the words were gone!");
  s.beat();
  s.say(`"what did you want?" asked the woman at the market. "${first}," said {H}, "and ${second}."`);
  s.say("(what was the last thing?|but what was the third one?) {H} closed {H.his} eyes.");
  const turn = s.chooser.chance(0.5);
  const hints: Record<string, string> = { bread: "something that comes out of an oven", milk: "something that comes from a cow", cheese: "something that mice love", butter: "something that one puts on bread", honey: "something that bees make", flour: "something that one needs for a cake", rice: "something small and white that one cooks", salt: "something that makes soup taste better" };
  s.say(`{H.auto} only knew that it was ${hints[third]}. "then it must be ${third}!" (said|laughed) the woman.`);
  if (turn) s.say("{H.auto} paid and ran home as fast as {H.he} could.");
  else s.say("{H.auto} was so glad that {H.he} hugged {H.his} basket.");
  s.say(`"${first}, ${second} and ${third}," said {M} and looked into the basket. "nothing is missing. (well done|how clever you are)!"`);
  close(s, { lesson: "it helps to write things down", since: "{H.auto} wrote everything on a card", home: false });
}

export function brokenBridge(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  s.cast.When = "after the (storm|great rain|long winter),";
  s.say("{When} the bridge over the river was broken. {H.auto} lived on one side and {F} on the other, so~cause they could not meet.");
  s.say('"I miss you!" {H} shouted across the water. "I miss you too!" {F} shouted back.');
  attempts(s, ["they tried to throw a rope, but it was too short.", "{H.auto} wanted to swim, but the water was too cold and too fast.", "{F} built a raft of sticks, but the raft sank.", "they laid a long branch across, but the river took it away."], 3);
  s.beat();
  s.say("the people of the village heard of it and came to help. (the farmer|the baker) brought wood, (the sailor|the teacher) brought ropes, and even the smallest children carried nails.");
  s.say("they worked (for three days|for a week|from dawn to night). {H.auto} built from this side, {F} built from the other, and in the middle they met.");
  s.say('"<greeting: hello>," said {F}. "<greeting: hello>," said {H}. then they hugged, and everyone cheered.');
  s.beat();
  s.say(`the new bridge was stronger than the old one, and it was painted ${s.chooser.pick(COLOURS)}.`);
  close(s, { lesson: "what is too heavy for two is light for many", since: "{both} met in the middle of the bridge every day" });
}

export function greedy(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  s.cast.O = thing(s.chooser.pick(["pie", "cake", "pot", "jar"]), "big");
  const jar = ["pot", "jar"].includes(s.entity("O").noun);
  s.cast.When = "one (day|afternoon|morning),";
  s.say(`{When} {H.s} {M.n} ${jar ? "filled {O.a} with honey" : "made {O.a}"} for the whole family and put~ it on the table. "don't touch it before dinner," said {M}.`);
  s.say("but it smelled so~ good. {H.auto} took a tiny bit. then {H.he} took another bit. and then one more.");
  s.say("soon {O} was almost empty, and {H.s} tummy was as round as a ball.");
  s.beat();
  s.say('at dinner, {H} was not hungry. "what is wrong?" asked {M}. "my tummy hurts~," said {H}.');
  s.say("{M} looked at {O} and understood. {M.auto} was not angry, but {M.he} gave {H} a cup of (bitter|very bitter) tea.");
  s.sayOne('"there is nothing left~ for the others," said {M}. {H.auto} was ashamed.', '{H.auto} looked at {H.his} family, who had only bread for dinner. "<apology: I\'m sorry>," {H.he} said.');
  s.beat();
  s.say(`the next day, {H} got up early and ${jar ? "filled {O} again" : "baked a new {O.n}"} for everyone. this time {H.he} took ${jar ? "only one spoon" : "the smallest piece"}.`);
  close(s, { lesson: "too much of a good thing is not good", since: "{H.auto} waited until everyone was at the table", home: false });
}

export function moving(s: Teller): void {
  castHero(s, "child");
  open(s);
  castFriend(s);
  s.say("{H.name} and {F.name} had been friends since they were babies. but now {F.s} family had to move to (a town far away|an island|the other side of the mountains).");
  s.sayOne("{H.auto} did not want to hear it.", '"will you forget me?" asked {H}. "never," said {F}.');
  s.say("on the last day they (climbed their tree|sat by the river|went to all their places) once more. nobody laughed that day.");
  s.beat();
  s.say(`{H.auto} gave {F} a ${s.chooser.pick(COLOURS)} (marble|feather|shell|ribbon). "when you miss me, hold it," said {H}. then the cart drove away, and {F} waved until it was only a small dot.`);
  sad(s);
  s.beat();
  s.say("weeks passed. then, one (rainy |cold |)morning, there was a letter. \"dear {H},\" it said, \"the (sea|town|school) here is big, but it is not the same without you. in summer I will come and visit you.\"");
  s.say("{H.auto} read~past_tense_verb it (three|ten|five) times. then {H.he} took a pencil and wrote a long answer.");
  s.sayOne("and when summer came, somebody knocked at the door. it was {F}!", "and in summer they ran towards each other, faster than ever before.");
  close(s, { lesson: "friends stay friends, however far they live", since: "they wrote a letter every (week|month)" });
}

export function loudDrum(s: Teller): void {
  castHero(s);
  open(s);
  const tool = s.chooser.pick(["drum", "flute", "violin", "bell"]);
  const verb = tool === "bell" ? "rang" : "played";
  castFriend(s);
  s.say(`{H} had a ${tool} and ${verb} it from morning to night. it was very loud.`);
  attempts(s, [`{H.auto} ${verb} it in the kitchen, but the cups fell from the shelf.`, `{H.auto} ${verb} it in the garden, but the birds flew away.`, `{H.auto} ${verb} it in the street, but the neighbours closed their windows.`, `{H.auto} ${verb} it in the barn, but the cows gave no more milk.`], 3);
  s.say('"(too loud|stop that noise)!" said everyone. {H.auto} was sad, because {H.he} only wanted to make music.');
  s.beat();
  s.say(`then {H} met {F}, who had a ${tool === "flute" ? "drum" : "flute"}. "let's play together," said {F}. "you play softly when I play softly, and loudly when I do."`);
  s.say("it was hard in the beginning. but day by day it sounded more like a song.");
  s.beat();
  s.say("one evening they played in the middle of the village. a window opened, and then another. people came out and began to dance. even the (old judge|baker|queen) danced.");
  s.say('"more, more!" they shouted.');
  happy(s, "both");
  close(s, { lesson: "music is also listening", since: "there was a concert in the village every summer" });
}

export function star(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.O = thing("star", s.chooser.pick(["little", "tiny", "small"]), s.chooser.pick(["golden", "white", "silver"]));
  s.cast.When = "one (clear|cold|warm) night,";
  s.say("{When} {H.auto} saw a light fall from the sky. it fell (into the garden|behind the hill|into the pond). {H.auto} ran there and found {O.a}.");
  s.say('"I slipped off the sky," said {O}. "my sisters are up there, and I want to go home."');
  attempts(s, ["{H.auto} threw {O} up high, but it fell down again.", "{H.auto} climbed the tallest tree, but the sky was still far away.", "{H.auto} tied {O} to a balloon, but it was too heavy~.", "{H.auto} asked an owl, but the owl could not fly so~ high."], 3);
  s.beat();
  s.say("{H.auto} sat down and thought. what makes stars rise?");
  const how = s.chooser.index([1, 1, 1]);
  s.say([
    "{H.auto} told {O} a funny story. {O} laughed, and with every laugh it became lighter~comparison, until it floated.",
    "{H.auto} sang a song for {O}. it glowed brighter~comparison and brighter~comparison, and slowly it rose into the air.",
    'then the moon bent down. "I have been looking for you," said the moon. it let down a long silver rope, and {O} climbed up.',
  ][how]);
  s.say('"<farewell: goodbye>, {H}!" called {O}. "<farewell: goodbye>!" called {H} and waved until {H.his} arm was tired.');
  s.beat();
  s.say("up in the sky, one star twinkled more than all the others.");
  close(s, { lesson: "one can help even those who are far above", since: "{H.auto} looked up every night and said <farewell: good night>", home: false });
}

export function trainTrip(s: Teller): void {
  castHero(s, "child");
  open(s);
  castElder(s);
  setDay(s);
  const goal = s.chooser.pick(["the sea", "the mountains", "the big town", "the zoo"]);
  s.say(`{When} {H} and {M} took the train to ${goal}. {H.auto} (sat by the window|had a seat by the window) and held both tickets.`);
  s.say("outside, (fields|houses|cows and horses), (bridges|rivers) and (forests|hills) flew by.");
  s.say('then the conductor came. "tickets, please," the man said.');
  s.say("{H.auto} looked into {H.his} hand. it was empty!");
  attempts(s, ["{H.auto} looked under the seat, but there was only a button.", "{M} looked into the bag, but there were only sandwiches.", "{H.auto} turned out all pockets and found a nut, a feather and a key.", "{H.auto} searched the coat, but the tickets were not in it."], 3);
  s.say("{H.auto} was so worried that {H.his} ears were hot.");
  s.beat();
  s.say("then a baby on the next bench laughed. it had (two tickets in its mouth|something in its hand: two tickets)! they were (wet|a little wet), but they were the right ones.");
  s.say('the conductor laughed too. "these tickets taste good, it seems," the man said and made a hole in each.');
  s.beat();
  s.say(`when they got out, {H} could already ${goal === "the sea" ? "(see|smell)" : "see"} ${goal}.`);
  happy(s);
  close(s, { lesson: "the best place for a ticket is a pocket", since: "{H.auto} kept tickets under {H.his} hat", home: false });
}

export function camping(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  const place = setPlace(s, "forest", "lake", "hill");
  s.cast.When = "one (summer evening|warm evening|evening in summer),";
  s.say("{When} {both} put~ up a tent {at}. they made a small fire and ate (potatoes|bread on sticks|pancakes).");
  if (place.name === "lake") s.say("the moon was swimming in the water.");
  s.say("when the fire was out, it was very dark. suddenly they heard a sound: (hoo, hoo|crack, crack|scratch, scratch)!");
  s.say('"what was that?" whispered {F}. "(a ghost|a bear|a monster)?" whispered {H}. they held hands and did not move.');
  s.beat();
  s.say("the sound came closer. at last {H} took the lamp and looked out.");
  castAnimal(s, ["owl", "hedgehog", "badger", "squirrel", "deer"]);
  s.say('there sat {P.a}. "<greeting: good evening>," it said. "you have put~ your tent on my (path|dinner table|front door)."');
  s.say("{both} had to laugh. \"<apology: we are sorry>,\" they said. they (moved|pulled) the tent a little to the side and gave {P} some bread.");
  s.beat();
  s.say("then all three looked at the stars together. there were more stars than anyone could count.");
  close(s, { lesson: "a ghost may be a guest", since: "they asked the animals first before they put~ up a tent" });
}

export function hideAndSeek(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  castFriend(s, "R");
  const place = setPlace(s, "garden", "forest", "farm", "barn", "meadow");
  setDay(s, "sunny", "warm", "cloudy");
  s.cast.spot = s.chooser.pick(place.spots);
  s.say("{When} {H.name}, {F.name} and {R.name} played hide and seek {at}. {H.auto} closed {H.his} eyes and counted to (twenty|ten|a hundred).");
  s.say(`"I am coming!" {H} called. {R} was easy to find, because {R.he} (giggled|sneezed) ${place.spots.find((spot) => spot !== s.cast.spot)}.`);
  s.say("but where was {F}? they looked and looked, but {F} was nowhere.");
  attempts(s, ["{H.auto} called {F.s} name, but no one answered.", "{R} looked (behind every door|up and down), but found only a spider.", "they walked around the whole place twice."]);
  s.sayOne('"we give up! come out!" shouted {R}. still nothing.', "the sun went down, and {H} began to worry.");
  s.beat();
  s.say("then {H} heard something. somebody was snoring {spot}! it was {F}, who had fallen asleep there.");
  s.say('"have I won?" asked {F} and (yawned|rubbed {F.his} eyes). they laughed until their tummies hurt~past_tense_verb.');
  close(s, { lesson: "a good hiding place should not be too soft", since: "they called {F} the champion of hiding" });
}

export function surpriseParty(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  s.say("it was {H.s} birthday. {H.auto} woke up early and waited, but nobody said anything.");
  s.sayOne('"<greeting: good morning>," said {H.his} mother, and that was all.', "at breakfast, there was only bread, as always.");
  s.say('{H.auto} met {F} in the street. "do you know what day it is?" {H} asked. "of course," said {F}. "it is a (Monday|Tuesday). I have no time today."');
  s.say("had everyone forgotten {H.him}?");
  sad(s);
  s.beat();
  s.say("in the (afternoon|evening), {H} walked home slowly. the house was dark and silent. {H.auto} opened the door.");
  s.say(`"surprise!" shouted (twenty|ten|many) voices. lamps were lit~, and there were ${s.chooser.pick(COLOURS.slice(0, 6))} balloons, a (chocolate|strawberry|cherry) cake and all {H.his} friends!`);
  s.say('"did you think that we had forgotten?" (laughed|asked) {F} and gave {H.him} a (new kite|big box|drum|book about pirates).');
  s.say("{H.auto} was so surprised that {H.he} (could not say a word|had to sit down|forgot to say <thanks: thank you>).");
  happy(s);
  s.beat();
  s.sayOne("they danced and played games until (the moon rose|late at night).", "{H.auto} closed {H.his} eyes, made a wish and blew out the candles.");
  close(s, { lesson: "friends may be silent, but they do not forget", since: "{H.auto} never again thought that {H.he} was forgotten", home: false });
}

export function robot(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.R = { noun: "robot", adjectives: [s.chooser.pick(["little", "old", "small"]), s.chooser.pick(COLOURS.slice(0, 6))], pronoun: "it" };
  castElder(s);
  setDay(s);
  s.say("{When} {H.auto} found {R.a} behind (the barn|the school|the old tower). it could walk and speak, but it did not know what a (friend|song|joke|smile) was.");
  s.say('"can you teach me?" asked {R}.');
  attempts(s, ["{H.auto} read~past_tense_verb to it from a thick book, but {R} did not understand.", "{H.auto} drew a picture, but {R} only saw lines.", "{H.auto} asked a wise man, but his answer was too long."], 2);
  s.beat();
  s.say("then {H} fell over a stone and hurt~ {H.his} knee. {R} came at once. it lifted {H.him} up and carried {H.him} home, although its arms creaked.");
  s.say('"why did you do that?" asked {H}. "I don\'t know," said {R}. "I did not want you to cry."');
  s.say('{H.auto} smiled. "(now you know it|you see), you have learned it by yourself."');
  thank(s, "H", "R");
  s.beat();
  s.say("there was a funny sound inside {R}. it was laughing for the first time.");
  close(s, { lesson: "some things can only be learned by doing them", since: "{H} and {R} were friends" });
}

export function brothers(s: Teller): void {
  castHero(s);
  open(s);
  castSibling(s);
  s.say(`{H} was jealous of {B}. {B.he} was (bigger|faster|louder) and always got (the first pancake|the best chair|the biggest piece of cake).`);
  s.sayOne('"I wish I had no {B.n}!" shouted {H} one day and slammed the door.', "one day, {H} was so angry that {H.he} ran out of the house.");
  s.say("{H.auto} ran into the forest, further than ever before. soon {H.he} did not know the way. it grew (dark|cold), and something (howled|rustled) behind the trees.");
  attempts(s, ["{H.auto} followed a stream, but it ended in mud.", "{H.auto} shouted, but only an owl answered.", "{H.auto} climbed a rock, but there was fog everywhere."]);
  s.beat();
  s.say('then {H} saw a light between the trees. "{H}! where are you?" somebody called. it was {B}, with a lantern and (a warm coat|a piece of bread).');
  s.say('"I have looked for you everywhere," said {B}. "I was so afraid for you."');
  s.sayOne("{H.auto} threw {H.his} arms around {B}.", '"<apology: I am sorry> for what I said," whispered {H}.');
  s.say("hand in hand they walked home. and the next morning, {B} gave {H} the first pancake.");
  remember2(s);
  close(s, { lesson: "(one fights with those whom one loves|a family is a light in the dark)", since: "{H} and {B} stood by each other", home: false });
}

function remember2(s: Teller): void {
  if (s.chooser.chance(0.3)) remember(s, "you two are like two hands");
  if (s.chooser.chance(0.3)) digress(s);
}
