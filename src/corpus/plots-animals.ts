import { castAnimal, castElder, castFriend, castHero, castMany, COLOURS, setDay, setPlace, someone, thing } from "./cast.ts"; // prettier-ignore
import type { Teller } from "./grammar.ts";
import { attempts, close, digress, happy, open, remember, sad } from "./parts.ts";

/** Plots about animals and nature: rescues, gardens, weather, water. */

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
  s.say(`suddenly ${pet.noun === "cat" || pet.noun === "kitten" ? "a dog barked" : "there was thunder"}, and {P} was so (afraid|frightened) that it ran away.`);
  s.say('"come back!" (shouted|called) {H}, but {P} did not hear.');
  attempts(s, [
    "{H.auto} called and called, but there was no answer.",
    "{H.auto} asked a woman with a basket, but she had not seen it.",
    "{H.auto} followed small marks in the mud, but they ended at a puddle.",
  ]);
  sad(s);
  s.beat();
  s.say(`then {H} heard a soft sound {spot}. (what was that?|could it be?) {H.auto} looked, and there sat {P}, ${home ? "cold and wet" : "next to a frightened bird"}!`);
  s.say("{H.auto} (hugged|patted) {P} and (carried|took) it home. {P} got (a warm blanket|a big supper|milk and bread).");
  happy(s);
  close(s, { lesson: "one must not give up (too soon|looking for a friend)", since: "{P} never ran away again" });
}

export function catInTree(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "garden", "park", "farm");
  setDay(s);
  castAnimal(s, ["kitten", "cat", "squirrel", "monkey"]);
  castFriend(s);
  s.say("{When} {both} were {at} when they heard a (sad|tiny|strange) voice. {P.a} was sitting (high up|at the top) in a tree and could not come down.");
  digress(s, place);
  attempts(s, [
    "{H.auto} called {P}, but it only held the branch more tightly~.",
    "{F} put~ a bowl of milk under the tree, but {P} did not move.",
    "{H.auto} climbed on a chair, but the chair was too low.",
    "they threw a rope, but {P} was afraid of it.",
  ]);
  s.say('"(it is|you are) not alone," {H} said (softly|gently). "we will help you."');
  s.beat();
  s.sayOne("{F} ran to get a ladder, and {H} held it while {F} climbed.", "they made a pile of hay under the tree so that {P} could jump.");
  s.sayOne("at last {P} was on the ground again, safe and well.", "slowly, very slowly, {P} came down. it was saved!");
  s.sayOne("it rubbed its head on {H.s} leg.", "it looked at them once more and ran home.", "it made a happy sound and followed them home.");
  happy(s, "both");
  close(s, { lesson: "even the smallest animal (needs|may need) a friend", since: "{P} came to visit {both} (every day|in the afternoon)" });
}

export function hurtBird(s: Teller): void {
  castHero(s);
  open(s);
  const place = setPlace(s, "garden", "forest", "meadow", "hill");
  setDay(s, "cold", "windy", "snowy");
  castAnimal(s, ["bird", "owl", "robin", "duckling", "crow"]);
  const part = s.chooser.pick(["wing", "leg", "foot"]);
  s.say("{When} {H.auto} found {P.a} " + s.chooser.pick(place.spots) + `. its ${part} was hurt~, and it could not ${part === "wing" ? "fly" : "walk"}.`);
  s.sayOne('"you poor thing," said {H}. "don\'t be afraid."', "{P} was shaking with (cold|fear).");
  s.say("{H.auto} wrapped it in {H.his} (scarf|coat) and carried it home. {H.he} made a bed for it in a (box|basket) full of hay.");
  s.beat();
  castElder(s);
  s.say('"it needs rest, water and (seeds|bread)," said {M}. so~cause {H} fed it every morning and every evening.');
  s.sayOne("on the first day it slept. on the second day it ate a little. on the third day it (sang|opened its eyes wide).", "day after day, it grew stronger.");
  s.say(`after two weeks, {P} could ${part === "wing" ? "spread~ its wings" : "hop on both feet"} again. {H.auto} knew that it was time to say <farewell: goodbye>.`);
  s.beat();
  s.say("{H.auto} opened the window. {P} looked back once, then it flew into the sky. {H.auto} was sad and happy at the same time.");
  s.sayOne("but when spring came, there was a song at the window. {P} had come back!", "a week later there was a (blue feather|red berry) at the window: a gift from {P}.");
  close(s, { lesson: "to love somebody is also to let them go", since: "{P} sang at {H.s} window each spring", home: false });
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
  s.sayOne('"do you have a home?" asked {H}. {P} only (looked up|tilted its head).', '"go home," said {H}, but {P} did not want to go.');
  s.say('"can we keep it?" {H} asked {M}. "first we must find out if it belongs to somebody," said {M}.');
  s.beat();
  s.say("they wrote a (card|note) and put~ it (on the gate|up at the market). (three days|a week|two days) went by. {H} and {P} played (and slept side by side|in the yard all day).");
  const owner = s.chooser.chance(0.5);
  if (owner) {
    s.cast.S = someone(s.chooser.pick(["baker", "sailor", "teacher", "farmer", "woman"]), "she", "old");
    s.say('then {S.a} knocked at the door. "you found my {P.n}!" {S.he} cried. {P} jumped into {S.his} arms.');
    s.say("{H.auto} swallowed hard. but {S} said, \"you may come and play with it whenever you want.\"");
  } else s.say('nobody came. "well," said {M}, "I think it has chosen you." {H} jumped for joy.');
  s.beat();
  if (owner) happy(s);
  close(s, { lesson: "an honest heart is never alone", since: owner ? "{H.auto} visited {P} every (week|day)" : "{P} slept at the foot of {H.s} bed", home: false });
}

export function plantSeed(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  const crop = s.chooser.pick(["sunflower", "bean", "pumpkin", "tulip", "carrot", "apple tree"]);
  s.cast.When = "(in spring|one morning in spring|when the snow had melted),";
  s.say(`{When} {M} gave {H.autohim} a (tiny|small|brown) seed. "what is it?" asked {H}. "wait and see," said {M}.`);
  s.say("{H.auto} dug a hole in the garden, put~ the seed into it and poured water on it.");
  s.beat();
  attempts(s, [
    "{H.auto} looked on the next day, but there was nothing to see.",
    "{H.auto} sang to the seed, but nothing grew.",
    "{H.auto} wanted to dig it up again, but {M} said, \"be patient.\"",
    "a week passed, and the ground was still bare.",
  ], 3);
  s.say("{H.auto} watered it every (morning|evening|day) and pulled the weeds. it rained, and the sun shone.");
  s.beat();
  s.say("then, one morning, there was something green, no bigger than (a finger|a button)! {H.auto} shouted (so loudly|with joy) that (the birds flew up|the whole house woke).");
  const end: Record<string, string> = {
    sunflower: "by summer it was taller than {H}, and it had a golden face. it was a sunflower!",
    bean: "it climbed up a stick and over the roof. soon there were beans for the whole family!",
    pumpkin: "it grew round and heavy. in autumn it was so big that two people could not lift it. it was a pumpkin!",
    tulip: `it opened slowly, and it was ${s.chooser.pick(COLOURS.slice(0, 5))}. it was a tulip!`,
    carrot: "{H.auto} pulled at the leaves, and out came a long carrot. it was sweeter than any other carrot!",
    "apple tree": "it grew slowly, year after year. when {H} was tall, so was the tree, and it was full of red apples.",
  };
  s.say(end[crop]);
  happy(s);
  close(s, { lesson: "(good things take time|patience makes things grow)", since: crop === "apple tree" ? "the children of the village played under the tree" : "{H.auto} planted a seed every spring", home: false });
}

export function bigVegetable(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.O = thing(s.chooser.pick(["turnip", "pumpkin", "carrot", "onion", "potato"]), s.chooser.pick(["huge", "enormous"]));
  const big = s.entity("O");
  s.cast.When = "one (autumn day|morning in autumn|day),";
  s.say("{When} {H.auto} went to the garden and saw {O.a}. {H.auto} pulled and pulled, but it did not move.");
  const helpers = ["{M}", "a (horse|cow|goat)", "a (dog|cat)", "the (baker|teacher|neighbour)"];
  castElder(s);
  s.say(`so~cause {H.he} called {M}. {M.auto} pulled {H.autohim}, and {H} pulled {O}, but it stayed in the ground.`);
  const second = s.chooser.pick(helpers.slice(1));
  s.say(`then ${second} came along and pulled too. they pulled (until their faces were red|with all their strength), but nothing happened.`);
  s.say('"we need one more," said {M}. "but who is left~?" at that moment a (tiny|little) (mouse|ant|snail) came by. "may I help?" it asked.');
  s.sayOne("everybody laughed. how could one so small help?", '"you are too small," they said, but {H} (smiled|nodded) and said, "please do."');
  s.beat();
  s.say(`one, two, three! all of them pulled at once, and plop! {O.full} came out, and everyone fell (into the mud|over backwards).`);
  s.say(`that evening there was ${big.noun} soup for all, and the little helper got the (biggest|first) bowl.`);
  close(s, { lesson: "nobody is too small to help", since: "nobody laughed at small helpers anymore", home: false });
}

export function snowman(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  const place = setPlace(s, "garden", "park", "hill", "meadow");
  setDay(s, "snowy");
  const hat = s.chooser.pick(COLOURS);
  s.say("{When} {both} put~ on their (boots|mittens|coats) and ran {to}.");
  if (place.name !== "park" && s.chooser.chance(0.4)) s.say("the snow was (deep and soft|as white as milk).");
  s.say('"let\'s build a snowman!" said {F}. they rolled three balls: a big one, a smaller one and a very small one.');
  s.say(`they gave it a carrot for a nose, two (stones|buttons|nuts) for eyes and a ${hat} hat.`);
  s.sayOne("{H.auto} tied {H.his} own scarf around its neck, because it looked cold.", "it was taller than both of them.");
  s.beat();
  const magic = s.chooser.chance(0.4);
  if (magic) {
    s.say(`that night, when everyone was asleep, the snowman (moved|opened its eyes). it (danced|walked) through the (snow|village) in the light of the moon and (waved|bowed) to the stars.`);
    s.say(`in the morning it stood in its place again, but its ${hat} hat was on the other side. "did you move it?" asked {H}. "no," said {F}. "did you?"`);
  } else {
    s.say("but the next day was warm, and the snowman became smaller and smaller. at last there was only a puddle, and in the puddle lay a (carrot|" + hat + " hat).");
    sad(s);
    s.say('"don\'t be sad," said {F}. "it did not go away forever. it is in the clouds now, and next winter it will come back as snow."');
  }
  s.beat();
  s.sayOne("they went inside and drank hot milk with honey.", "they laughed and threw snowballs until their fingers were cold.");
  close(s, { lesson: magic ? "some nights are full of magic" : "what goes away may come back", since: "{both} built a snowman every winter" });
}

export function missingSheep(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.S = someone(s.chooser.pick(["shepherd", "farmer"]), s.chooser.pick(["he", "she"]), s.chooser.pick(["old", "tired", "friendly"]));
  setDay(s, "cloudy", "windy", "cold");
  const many = castMany(s, ["lamb", "duckling", "chick", "goat", "pony", "hen"]);
  const order = "three four five six seven ten".split(" ");
  many.count = s.chooser.pick(order.slice(1));
  const before = { four: "three", five: "four", six: "five", seven: "six", ten: "nine" }[many.count]!;
  const one = { lambs: "lamb", ducklings: "duckling", chicks: "chick", goats: "goat", ponies: "pony", hens: "hen" }[many.noun]!;
  s.say("{When} {H.auto} helped {S.a} with {S.his} {N.n}. there were {N.count}.");
  s.say(`in the evening, {H} counted {N.him}: one, two, three. but at the end there were only ${before}!`);
  s.say(`"one ${one} is missing," said {H}. {S.auto} was (worried|very worried), because (the night was near|a storm was coming|there was a fox in the forest).`);
  s.beat();
  s.say("{H.auto} took a lantern and went to look.");
  attempts(s, ["{H.auto} searched behind the barn, but it was not there.", "{H.auto} looked by the river, but there were only frogs.", "{H.auto} called from the top of the hill, but only the wind answered.", "{H.auto} looked under the hay, but only a cat was sleeping there."], 3);
  s.say(`then {H.he} heard a weak cry. the little ${one} had ${s.chooser.pick(["fallen into a hole", "got stuck in a bush", "lost its way in the fog"])}! {H.auto} (lifted it up|took it in {H.his} arms) and (carried|brought) it home.`);
  s.beat();
  s.say(`"now there are ${many.count} again," said {S}. "<thanks: thank you>, {H}! without you it would have been lost."`);
  close(s, { lesson: "each one counts", since: "{H.auto} counted {N} every evening" });
}

export function bigFish(s: Teller): void {
  castHero(s);
  open(s);
  castElder(s);
  const place = setPlace(s, "lake", "river");
  setDay(s, "sunny", "warm", "cloudy");
  s.cast.P = { noun: "fish", adjectives: [s.chooser.pick(["huge", "golden", "silver", "big"])], pronoun: "it" };
  s.say("{When} {H} and {M} went fishing {at}.");
  digress(s, place);
  attempts(s, ["{H.auto} caught an old boot.", "{H.auto} waited for an hour, but nothing happened.", "{H.auto} pulled out a stick with green leaves.", "a frog jumped onto {H.s} net and laughed."], 2);
  s.beat();
  s.say('then the line moved. {H.auto} pulled with all {H.his} strength, and out of the water came {P.a}! it was (longer than {H.his} arm|heavier~comparison than a cat|the biggest fish in {place}).');
  s.say('"please let me go," said {P}. "(I have nine children|I want to see the sea once more|my family is waiting for me)."');
  s.sayOne("{H.auto} looked at {M}, and {M} nodded.", "{H.auto} was hungry, but {H.he} was also kind.");
  s.say("{H.auto} put~ {P} back into the water, and it swam away.");
  s.beat();
  const reward = s.chooser.chance(0.5);
  if (reward) s.say("a moment later {P} came back with a (pearl|golden ring|silver coin) in its mouth. \"this is for your kind heart,\" it said.");
  else s.say("that evening they ate (bread and cheese|potatoes) instead of fish. it tasted better than (any dinner before|ever).");
  close(s, { lesson: "(a kind deed is never lost|kindness is worth more than dinner)", since: "{P} waved its tail whenever {H} came by", home: false });
}

export function storm(s: Teller): void {
  castHero(s);
  open(s);
  s.cast.When = "one (stormy|rainy|dark) night,";
  s.sayOne("{When} {H.auto} could not sleep. thunder crashed, and the rain knocked at the window.", "{When} {H} lay in bed and listened to the wind. it howled around the house.");
  const what = s.chooser.index([1, 1, 1, 1]);
  const sound = ["a scratching sound", "a knock", "a sad voice", "a strange noise"][what];
  const where = ["at the door", "at the window", "under the bed", "in the kitchen"][what];
  s.say(`then there was ${sound} ${where}. (what could it be?|was it a monster?|was somebody there?) {H} (pulled the blanket over {H.his} head|was so scared that {H.he} held {H.his} breath).`);
  const tries = s.chooser.chance(0.6);
  if (tries) remember(s, "fear is big in the dark but small in the light");
  s.say(`{H.auto} took a (lantern|candle|lamp) and ${what === 2 ? "looked under the bed" : what === 3 ? "tiptoed to the kitchen" : what === 1 ? "went to the window" : "opened the door"} (slowly|very slowly|with shaking hands).`);
  s.beat();
  const found = [
    "a wet dog, who wanted to come in from the rain",
    "a branch of the old apple tree, which the wind was shaking",
    "a tiny kitten, who was even more afraid of the storm",
    "a mouse with a piece of cheese, who was as frightened as {H}",
  ][what];
  s.say(`it was only ${found}! {H.auto} began to laugh.`);
  if (what === 0 || what === 2) s.say(`"come here," said {H}. {H.auto} dried it with a towel, and the ${what === 0 ? "dog" : "kitten"} slept (next to {H.him}|at {H.his} feet) until morning.`);
  else if (what === 1) s.say("{H.auto} waved to the branch and closed the curtain. the branch waved back.");
  else s.say('"you may keep it," said {H}. the mouse thanked {H.him} and ran into its hole.');
  close(s, { lesson: "(many things are less terrible when one looks at them|to be brave is to look although one is afraid)", since: "{H.auto} was not afraid of storms anymore", home: false });
}

export function boatTrip(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  setPlace(s, "lake", "river");
  const weather = setDay(s, "sunny", "warm", "windy");
  s.cast.O = { noun: "boat", adjectives: [s.chooser.pick(["little", "old", "small"]), s.chooser.pick(COLOURS)], pronoun: "it" };
  s.say("{When} {both} climbed into {O.a} and rowed out onto the water.");
  s.sayOne("fish swam beside them, and the sun (danced on the waves|was warm on their faces).", '"I am the captain!" said {H}. "and I am the pirate," said {F}.');
  s.beat();
  const trouble = s.chooser.index([2, 1, 1]);
  if (trouble === 0) {
    s.say("suddenly {H.s} feet were wet. there was a hole in {O}! it began to sink.");
    attempts(s, ["{F} put~ a hand on the hole, but the water still came in.", "{H.auto} took the bucket and poured the water out, but it came back faster.", "they shouted for help, but the shore was too far away."]);
    s.say('"(your hat|your scarf|my sock)!" cried {H}. they pushed it into the hole, and the water stopped. then they rowed back as fast as they could.');
  } else if (trouble === 1) {
    s.say("then {F} lost an oar. it floated away, and they could only row in circles.");
    attempts(s, ["{H.auto} reached for it, but {H.his} arm was too short.", "they used their hands, but they were too slow."]);
    s.say("then a swan came by. {F.auto} threw it a rope, and the swan pulled {O} back to the shore. \"<thanks: thank you>!\" they called.");
  } else {
    s.say(`${weather === "windy" ? "then the wind grew stronger" : "then a strong wind came up"}, and the waves were higher than {O}. {F.auto} was afraid. "hold my hand," said {H}, "and look at the shore."`);
    s.say("they rowed and rowed until their arms hurt~past_tense_verb. at last {O} touched the sand.");
  }
  s.beat();
  s.say("they lay on the grass and (breathed|laughed). \"what an adventure!\" said {F}.");
  close(s, { lesson: "it is good to stay calm when there is trouble", since: "they looked at every boat carefully before they climbed in" });
}

export function picnic(s: Teller): void {
  castHero(s);
  open(s);
  castFriend(s);
  const place = setPlace(s, "meadow", "hill", "park", "lake", "beach");
  setDay(s, "sunny", "warm");
  s.say("{When} {both} had a picnic {at}. they brought (sandwiches|bread and cheese|pancakes), (plums|apples|cherries) and (a chocolate cake|a bottle of milk|honey buns).");
  digress(s, place);
  const trouble = s.chooser.index([1, 1, 1]);
  s.beat();
  if (trouble === 0) {
    s.say("when they were about to eat, a drop fell on {H.s} nose. then another. it was raining!");
    sad(s, "F");
    s.say('"wait," said {H}. {H.auto} took the blanket and hung it over a branch, and now they had a tent. they sat in it side by side and listened to the rain.');
    s.say("the food tasted even better there, and when the rain stopped, there was a rainbow in the sky.");
  } else if (trouble === 1) {
    s.say("they went away to wash their hands. when they came back, the basket was empty! (who had eaten everything?|where was the food?)");
    s.say("then they saw a long, long row of ants. each ant was carrying a bit of bread. the two followed the ants and found them having a party under a stone.");
    s.say('{H.auto} wanted to be angry, but {H.he} had to laugh. "they were hungry too," said {F}. the queen of the ants gave them a (strawberry|drop of honey) and said, "<thanks: thank you> for the feast."');
  } else {
    castAnimal(s, ["goat", "dog", "duck", "horse", "bear"]);
    s.say("{P.a} came near and looked at the basket with (big|hungry) eyes. {F.auto} was a little afraid, but {H} (held out|offered) a piece of bread.");
    s.say("{P} ate it, and then it ate one more, and then it lay down beside them. it was not dangerous, it was only hungry (and lonely|).");
  }
  happy(s, "both");
  close(s, { lesson: "(a bad moment can become a good story|there is enough when one shares)", since: "they always brought (a little more|food for one more guest)" });
}
