import { withParents } from "./concepts.ts";

/**
 * The words of the stories and what they show. Each word form has one sense in the whole corpus
 * ("saw" is always the verb, "left" always went away, "orange" never occurs), so that a word's
 * concepts are a fact about it. Entries: `noun` (plural by rule), `noun/plural`, `noun/-` (no plural).
 */
const NOUNS: Record<string, string> = {
  "animal.dog": "dog puppy",
  "animal.cat": "cat kitten",
  "animal.bird": "bird owl robin crow parrot chick",
  "animal.duck": "duck duckling swan",
  "animal.rabbit": "rabbit bunny",
  "animal.bear": "bear",
  "animal.mouse": "mouse/mice",
  "animal.fox": "fox",
  "animal.frog": "frog",
  "animal.fish": "fish/-",
  "animal.insect": "spider bee ant butterfly ladybird snail",
  "animal.farm": "cow horse sheep/- goat hen pig pony lamb donkey",
  animal: "animal squirrel hedgehog turtle deer/- monkey elephant lion badger creature",
  "person.role":
    "champion crowd teacher king queen farmer baker sailor doctor neighbour shepherd wizard pirate conductor captain prince princess painter giant gardener librarian man/men woman/women owner passenger singer judge winner robot",
  "person.role family": "mother father grandmother grandfather aunt uncle",
  "person.child family": "sister brother baby/babies",
  "person.child": "boy girl child/children",
  family: "family parent",
  friendship: "friend",
  place: "zoo park street world bridge path road gate fence corner way/-",
  "place.nature":
    "forest beach meadow hill garden field mountain island valley cave shore yard sand/- ground/- grass/- mud/- rock stone",
  "place.nature water": "river lake pond sea stream",
  water: "water/- wave puddle bubble",
  "place.building":
    "school house home/- farm barn kitchen library castle shop market village town harbour station tower room attic bakery tent",
  "object.toy": "ball kite doll drum top puzzle teddy marble balloon block skate toy game",
  "object.tool":
    "key lamp rope bucket ladder hammer basket box/boxes bag bowl spoon net brush paint/- glue/- paper/- pencil letter book map string stick nail broom clock wheel blanket pillow towel cup plate pot jar bottle umbrella lantern candle flag sail oar ticket card ribbon shovel",
  "object.treasure":
    "necklace gold/- ring coin shell feather pearl treasure gift crown jewel prize chest/-",
  "object.furniture":
    "oven stove mirror curtain seat table chair bed door window shelf/shelves roof wall floor stairs/- bench chimney fire/-",
  food: "loaf feast bread/- soup/- milk/- cheese/- egg rice/- sandwich pancake dinner/- breakfast/- lunch/- supper/- food/- seed nut butter/- flour/- picnic tea/- salt/-",
  "food.sweet": "cream/- cake cookie honey/- pie sugar/- jam/- chocolate/- bun muffin sweet",
  "food.fruit": "apple pear berry plum cherry strawberry banana fruit/-",
  "food.vegetable": "carrot turnip pumpkin potato/potatoes bean pea onion vegetable",
  time: "Monday/- Tuesday/- Wednesday/- day hour week month year minute moment today/- tomorrow/- yesterday/- noon/- afternoon time/- birthday",
  "time.morning": "morning dawn/-",
  "time.night": "night evening bedtime/- midnight/- tonight/-",
  "time.season": "spring/- summer autumn winter",
  "weather.rain": "rain/- storm raindrop thunder/- lightning/-",
  "weather.snow": "snowball snow/- ice/- snowflake snowman/snowmen frost/-",
  "weather.wind": "wind breeze",
  "weather.sun": "sunshine/-",
  "weather.sun sky": "sun/-",
  weather: "weather/- fog/-",
  sky: "sky/- moon/- star cloud rainbow air/-",
  body: "hand foot/feet head eye ear nose arm leg wing tail paw tooth/teeth mouth hair/- heart knee finger tummy face neck whisker fur/- toe shoulder",
  clothing:
    "hat scarf/scarves coat boot glove sock dress/dresses shirt shoe sweater pocket cape mitten button",
  plant: "leaf/leaves plant bush/bushes hay/- corn/- mushroom",
  "plant.tree": "tree oak branch/branches trunk log",
  "plant.flower": "flower daisy tulip sunflower",
  sound: "sound noise voice silence/-",
  music: "concert song music/- flute violin bell whistle tune dance",
  magic: "wish spell fairy/fairies dragon witch/witches magic/- wand monster ghost",
  vehicle: "boat train cart truck bike sled wagon ship raft bus/buses",
  "feeling.happy": "joy/- smile laughter/-",
  "feeling.sad": "tear",
  "feeling.afraid": "fear/-",
  danger: "smoke/- danger/- trouble/- accident",
  thinking: "idea plan secret promise lesson surprise/- truth/-",
  sleep: "dream nap",
  help: "helper rescue/-",
  making: "work/- nest recipe",
  "": "name turn/- word part side end/- middle/- top/- bottom/- kind/- bit/- line team adventure place spot row trip answer shape mistake thing hole piece picture story",
};

/** `base` (regular past), or `base/past`, or `base/past/-ing form`; a past equal to its base is not listed as past. */
const VERBS: Record<string, string> = {
  "motion verb":
    "run/ran/running walk jump hop/hopped/hopping climb go/went come/came/coming swim/swam/swimming fly/flew hurry/hurried skip/skipped/skipping crawl race/raced/racing follow return leave/left/leaving roll float slide/slid/sliding march sail rush wander arrive/arrived/arriving travel/travelled/travelling chase/chased/chasing dance/danced/dancing move/moved/moving ride/rode/riding cross~ tiptoe/tiptoed drift swing/swung row creep/crept step/stepped/stepping visit",
  "motion verb danger": "fall/fell slip/slipped/slipping trip/tripped/tripping",
  danger: "break/broke/breaking crack sink/sank shake/shook/shaking tear~/tore burn",
  "speech verb":
    "say/said ask tell/told answer whisper call shout reply/replied explain promise/promised add beg/begged/begging agree/agreed speak/spoke talk warn thank",
  perception:
    "see/saw hear/heard smell look watch listen feel/felt taste/tasted/tasting notice/noticed stare/stared/staring peek touch",
  thinking:
    "think/thought know/knew remember hope/hoped/hoping wonder believe/believed decide/decided/deciding forget/forgot/forgetting learn understand/understood plan/planned/planning dream guess mean/meant",
  giving:
    "give/gave/giving share/shared/sharing bring/brought take/took/taking offer send/sent hand~/handed keep/kept pay/paid",
  making:
    "make/made/making build/built bake/baked/baking cook mend fix paint plant~/planted dig/dug/digging draw/drew grow/grew mix pour stir/stirred/stirring tie/tied/tying write/wrote/writing carve/carved sew/sewed",
  searching: "seek/sought find/found search lose/lost/losing hunt discover",
  sleep: "sleep/slept wake/woke/waking yawn rest",
  help: "help save/saved/saving rescue/rescued/rescuing protect",
  sound:
    "sing/sang ring~/rang bark knock clap/clapped/clapping splash squeak roar buzz hum/hummed/humming hoot meow quack growl ring/rang crash creak rustle/rustled chirp snore/snored/snoring howl",
  "feeling.happy":
    "smile/smiled/smiling laugh giggle/giggled/giggling cheer grin/grinned enjoy/enjoyed love/loved hug/hugged/hugging",
  "feeling.sad": "cry/cried weep/wept sigh sob/sobbed/sobbing",
  "feeling.afraid": "tremble/trembled/trembling",
  weather: "shine/shone blow/blew",
  "": "drive/drove/driving choose/chose/choosing play be/was have/had/having do/did get/got/getting begin/began/beginning start stop/stopped/stopping eat/ate drink/drank hold/held stand/stood sit/sat/sitting catch/caught wear/wore win/won/winning throw/threw pull push pick open close/closed live/lived like/liked want need try/tried become/became wait stay turn lie/lay hide/hid/hiding show carry/carried reach fill lift point practise/practised use/used finish seem work~ wave/waved/waving nod/nodded belong bite/bit freeze/froze glow twinkle/twinkled burst~ drop/dropped/dropping end~ join count teach/taught meet/met stick/stuck melt fit/fitted lead/led wrap/wrapped pack wash drip/dripped clean solve/solved happen hatch feed/fed change/changed/changing trade/traded pat/patted lean cover bend/bent spread~ measure/measured kneel/knelt scratch tug/tugged squeeze/squeezed set~ nibble/nibbled whirl steal/stole rise/rose/rising swallow bow weigh lock worry/worried",
};

const OTHERS: Record<string, string> = {
  searching: "missing",
  "": "were am is are been being has does gone eaten",
  number: "two three four five six seven eight nine ten twelve twenty hundred",
  "size.big": "big large huge tall long wide enormous heavy deep~",
  "size.small": "small little tiny short narrow",
  "comparison size.big": "bigger biggest taller longer longest tallest",
  "comparison size.small": "smaller smallest",
  comparison:
    "than nicest lowest least better best more most faster fastest slower louder warmer brighter braver bravest kinder kindest nicer prettiest finest closer higher stronger strongest happier darker sooner less sweeter easier",
  "colour.red": "red",
  "colour.blue": "blue",
  "colour.green": "green",
  "colour.yellow": "yellow",
  "colour.white": "white",
  "colour.brown": "brown",
  "colour.golden": "golden",
  colour: "black purple pink grey silver colour colours",
  "feeling.happy": "happy happily glad cheerful joyful merry gladly",
  "feeling.sad": "sad sadly unhappy",
  "feeling.afraid": "afraid scared frightened",
  "feeling.angry": "angry angrily cross~ grumpy",
  "feeling.proud": "proud proudly",
  "feeling.tired": "tired sleepy",
  "feeling.worried": "worried nervous",
  "feeling.lonely": "lonely alone",
  "feeling.surprised": "surprised amazed",
  feeling: "excited curious bored hungry ashamed shy calm jealous",
  character:
    "kind brave clever gentle honest patient selfish careless lazy friendly wise greedy polite proudest funny playful quiet",
  "weather.rain": "raining rainy wet rained stormy",
  "weather.snow": "snowy icy snowed frozen",
  "weather.wind": "windy",
  "weather.sun": "sunny warm hot",
  weather: "cloudy cold foggy",
  sound: "loud loudly softly silent",
  sleep: "asleep awake",
  magic: "magical",
  danger: "dangerous careful carefully deep broken",
  negation:
    "not no never nothing nobody none nowhere without didn't couldn't wasn't weren't don't can't won't isn't doesn't wouldn't haven't cannot",
  cause: "because since therefore",
  contrast: "but although though however instead yet",
  condition: "if unless",
  "pronoun.he": "he him himself",
  "pronoun.she": "she herself",
  "pronoun.it": "it itself",
  "pronoun.they": "they them themselves",
  "pronoun.first": "I me we us I'm I'll I've we'll we're let's myself",
  "pronoun.second": "you you're yourself you'll",
  "possessive pronoun.he": "his",
  "possessive pronoun.it": "its",
  "possessive pronoun.they": "their",
  "possessive pronoun.first": "my our mine",
  "possessive pronoun.second": "your yours",
  greeting: "hello hi welcome",
  farewell: "goodbye",
  apology: "sorry",
  friendship: "together",
  help: "helpful",
  food: "delicious tasty",
  "food.sweet": "sweet",
};

/** Words in -ed that are no verbs here; "tired" and "scared" are feelings. */
const NOT_PAST = new Set("deed red bed tired scared excited frightened surprised worried shed need indeed seed feed wicked hundred named sled bored crooked".split(" ")); // prettier-ignore
const SIBILANT = /(s|x|ch|sh)$/;

export function plural(noun: string): string {
  const known = irregularPlurals.get(noun);
  if (known) return known;
  if (SIBILANT.test(noun)) return noun + "es";
  return /[^aeiou]y$/.test(noun) ? noun.slice(0, -1) + "ies" : noun + "s";
}

const irregularPlurals = new Map<string, string>();
const entries = new Map<string, Set<string>>();

function enter(word: string, concepts: readonly string[]): void {
  const known = entries.get(word) ?? entries.set(word, new Set()).get(word)!;
  for (const concept of concepts) for (const each of withParents(concept)) known.add(each);
}

/** The keys of the tables: concepts with one-word names are separated by spaces. */
function conceptsOf(key: string): string[] {
  if (key === "") return [];
  return key.replace(/(motion|speech) verb/g, "$1_verb").split(" ").map((c) => c.replaceAll("_", " ")); // prettier-ignore
}

for (const [key, words] of Object.entries(NOUNS))
  for (const entry of words.split(" ")) {
    const [noun, many] = entry.split("/");
    enter(noun, conceptsOf(key));
    if (many === "-") continue;
    if (many) irregularPlurals.set(noun, many);
    enter(plural(noun), [...conceptsOf(key), "plural noun"]);
  }
for (const [key, words] of Object.entries(VERBS))
  for (const entry of words.split(" ")) {
    const [marked, past, ing] = entry.split("/");
    const base = marked.replace("~", "");
    const concepts = conceptsOf(key);
    if (!marked.endsWith("~")) enter(base, concepts);
    enter(past ?? base + (base.endsWith("e") ? "d" : "ed"), [...concepts, "past tense verb"]);
    enter(ing ?? (base.endsWith("e") ? base.slice(0, -1) : base) + "ing", concepts);
    if (!marked.endsWith("~") && !entries.has(base + "s")) enter(base + "s", concepts);
  }
for (const [key, words] of Object.entries(OTHERS))
  for (const entry of words.split(" ")) if (!entry.endsWith("~")) enter(entry, conceptsOf(key));
for (const word of [
  "he",
  "him",
  "himself",
  "his",
  "she",
  "herself",
  "it",
  "itself",
  "its",
  "they",
  "them",
  "themselves",
  "their",
  "I",
  "me",
  "we",
  "us",
  "I'm",
  "I'll",
  "I've",
  "we'll",
  "we're",
  "myself",
  "my",
  "our",
  "mine",
  "you",
  "you're",
  "yourself",
  "you'll",
  "your",
  "yours",
])
  // prettier-ignore
  enter(word, word.includes("sel") ? ["pronoun", "reflexive"] : ["pronoun"]);
for (const word of "was were had did could would".split(" ")) enter(word, ["past tense verb"]);

/** The concepts of a word form; none for a word the lexicon does not hold. A word in -ed is a past form. */
export function lookUp(word: string): readonly string[] {
  const known = entries.get(word);
  if (known) return [...known];
  return word.endsWith("ed") && word.length > 3 && !NOT_PAST.has(word) ? ["past tense verb"] : [];
}
