/**
 * `node bench/steering.mjs RUN`: for how many concepts of the built-in corpus can a latent of a run make
 * the model write of it, at what cost, beside controls of the same length. See --help.
 *
 * Three sets of text that share nothing: latents and strengths are searched for at validation contexts
 * (`findByEffect`), chosen on generated texts of one seed, and measured on generated texts of another,
 * beside unsteered texts of a third.
 */
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { betweenMarkers, markdownTable, textTable } from "./table.mjs";

const HELP = `node bench/steering.mjs RUN [options]

  RUN                folder of a run on the built-in model, at one hook point
  --prompt TEXT      what is gone on from; default: nothing, a document's beginning
  --tokens N         new tokens of each text; default: 100
  --candidates N     latents searched for each concept; default: 8
  --together N       latents turned up at once, at most; default: 8
  --texts N          texts of each choice; measured on four times as many; default: 64
  --unsteered N      texts of the model as it is; default: 2048
  --json PATH        all numbers; interrupted, the same line goes on (from PATH.part)
  --markdown PAGE    also write the table between the markers of this page
`;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prompt: { type: "string", default: "" },
    tokens: { type: "string", default: "100" },
    candidates: { type: "string", default: "8" },
    together: { type: "string", default: "8" },
    texts: { type: "string", default: "64" },
    unsteered: { type: "string", default: "2048" },
    json: { type: "string" },
    markdown: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
const here = fileURLToPath(new URL(".", import.meta.url));
if (values.help || positionals.length !== 1) {
  process.stdout.write(HELP);
  process.exit(values.help ? 0 : 1);
}
if (!existsSync(join(here, "../dist/index.js"))) {
  process.stderr.write("Lens is not built yet: run `npm run build` first.\n");
  process.exit(1);
}
const lens = await import("../dist/index.js");
const log = (text) => process.stderr.write(`${text}\n`);

const HOOK = "blocks.2.hook_resid_post";
/** What counts as steering: so many times as often, at so many times the perplexity at most. */
const RISE = 5;
const COST = 1.3;
/** Unsteered hits that a rate needs to be divided by. */
const ENOUGH = 10;
/** Of what the search found for a concept so many are tried, each at so many strengths. */
const TRIED = 2;
const STEPS = 6;
/** Rises that contexts foretell are about half of those of text: below this it is not worth a trial. */
const FORETOLD = RISE / 2;

const [run] = positionals;
const model = await lens.loadModel("builtin:tiny");
const { sae } = await lens.loadSae(join(run, "sae"));
const features = await lens.openFeatures(join(run, "features"));
const { bosId, eosId } = model.tokenizer;
const prompt = Int32Array.of(bosId, ...model.tokenizer.encode(values.prompt).ids);

/** `count` texts: words that show each concept, and their losses under the model as it is. */
async function write(count, seed, intervention) {
  const made = await lens.generateMany(model, prompt, count, {
    ...{ maxNewTokens: Number(values.tokens), temperature: 1, seed, stopTokens: [eosId] },
    ...(intervention && { intervention }),
  });
  const texts = [];
  for (const row of made) {
    const fresh = row.map(({ token }) => token).filter((token) => token !== eosId);
    const tokens = Int32Array.of(...prompt, ...fresh);
    const { loss } = await model.forward({ tokens, batch: 1, length: tokens.length, loss: true });
    const own = loss.subarray(prompt.length - 1);
    const sum = own.reduce((total, v) => total + v, 0);
    const [words, shown] = [[...lens.labelWords(model.tokenizer.decode(fresh))], new Map()];
    for (const { concepts } of words)
      for (const concept of concepts) shown.set(concept, (shown.get(concept) ?? 0) + 1);
    texts.push({ words: words.length, shown, loss: sum, tokens: own.length });
  }
  return texts;
}

function measure(texts, concept) {
  const hits = texts.map(({ shown }) => shown.get(concept) ?? 0);
  const words = texts.map((one) => one.words);
  const perToken = lens.ratioInterval(
    texts.map(({ loss }) => loss),
    texts.map(({ tokens }) => tokens),
  );
  return {
    hits: hits.reduce((sum, n) => sum + n, 0),
    rate: lens.ratioInterval(hits, words),
    perplexity: Math.exp(perToken.value),
  };
}

/** What an interrupted process of the same settings had found. */
const part = values.json && `${values.json}.part`;
const settings = { run, ...values, json: undefined, markdown: undefined };
let kept = part && existsSync(part) ? JSON.parse(readFileSync(part, "utf8")) : undefined;
if (JSON.stringify(kept?.settings) !== JSON.stringify(settings)) kept = { settings, tried: {} };
function keep() {
  if (!part) return;
  writeFileSync(`${part}.new`, JSON.stringify(kept));
  renameSync(`${part}.new`, part);
}

log("unsteered texts …");
const unsteered = await write(Number(values.unsteered), 1);
const names = lens.CONCEPTS.map(({ name }) => name);
const before = new Map(names.map((name) => [name, measure(unsteered, name)]));
const judged = names.filter((name) => before.get(name).hits >= ENOUGH);

log("which latents bring the concepts about …");
kept.searched ??= await lens.findByEffect(
  sae,
  model,
  judged.map((name) => lens.tokensOfConcept(model, name)).filter(({ tokens }) => tokens.length > 0),
  lens.documents("builtin:stories", { split: "validation" }),
  {
    ...{ hookPoint: HOOK, tokens: 1024, maxCost: Math.log(COST) },
    ...{ candidates: Number(values.candidates), together: Number(values.together) },
    onProgress: (done, total) => done % 50 === 0 && log(`  ${done} of ${total}`),
  },
);
keep();

const place = { hookPoint: HOOK, promptLength: prompt.length };

/**
 * Contexts of the corpus foretell the cost in text that steers itself only roughly: from the strength
 * that the search found in steps up or down to the last within the cost. The trial with the highest rate.
 */
async function bestOf({ latents, strength }, concept, plain) {
  let [best, value] = [undefined, strength];
  const seen = new Set();
  for (let i = 0; i < STEPS && !seen.has(value.toFixed(2)); i++) {
    seen.add(value.toFixed(2));
    const edits = latents.map((latent) => ({ latent, kind: "add", value }));
    const steered = await write(Number(values.texts), 2, lens.steering(sae, model, edits, place));
    const { rate, perplexity } = measure(steered, concept);
    const cost = perplexity / plain.perplexity;
    if (cost <= COST && (!best || rate.value > best.rate))
      best = { latents, value, rate: rate.value };
    if (cost > 0.92 * COST && cost <= COST) break;
    value *= cost > COST ? 1 / 1.1 : 1.1;
  }
  return best;
}

const wordsPerToken =
  unsteered.reduce((sum, { words }) => sum + words, 0) /
  unsteered.reduce((sum, { tokens }) => sum + tokens, 0);
const foretold = ({ name, baseline, found }) =>
  1 + ((found[0]?.rate ?? 0) - baseline) / wordsPerToken / before.get(name).rate.value;
const promising = kept.searched
  .filter((one) => foretold(one) >= FORETOLD)
  .toSorted((a, b) => foretold(b) - foretold(a));

/** What can be done for a concept, measured; only the best rise that was promised where that is too little. */
async function tried({ name, found }) {
  const plain = before.get(name);
  const trials = [];
  for (const one of found.slice(0, TRIED)) trials.push(await bestOf(one, name, plain));
  const [best] = trials.filter(Boolean).toSorted((a, b) => b.rate - a.rate);
  const promised = best ? best.rate / plain.rate.value : 0;
  if (promised < 0.8 * RISE) return { promised };
  const subjects = lens.subjectsOf(
    ...[sae, model, features, best.latents],
    { ...place, unit: best.value, latents: 2, directions: 2 },
    found.flatMap(({ latents }) => latents),
  );
  const measured = [];
  for (const { name: subject, kind, at } of subjects) {
    const { rate, perplexity } = measure(await write(4 * Number(values.texts), 3, at(1)), name);
    const cost = perplexity / plain.perplexity;
    measured.push({ subject, kind, rate, times: rate.value / plain.rate.value, cost });
  }
  const [{ times, cost }] = measured;
  const holds = times >= RISE && cost <= COST;
  return { row: { concept: name, ...best, unsteered: plain, holds, measured } };
}

const rows = [];
for (const [i, one] of promising.entries()) {
  const { row, promised } = (kept.tried[one.name] ??= await tried(one));
  keep();
  const where = `${i + 1}/${promising.length} ${one.name}`;
  if (!row) {
    log(`${where}: at best ${promised.toFixed(1)} times`);
    continue;
  }
  const [{ times, cost }] = row.measured;
  log(`${where}: ${times.toFixed(1)} times at ${cost.toFixed(2)} times the perplexity`);
  rows.push(row);
}

rows.sort((a, b) => b.measured[0].times - a.measured[0].times);
const percent = ({ value, low, high }) =>
  `${(100 * value).toFixed(2)} (${(100 * low).toFixed(2)}–${(100 * high).toFixed(2)})`;
const head = [
  ...["concept", "latents", "unsteered, % of words", "steered, % of words", "times"],
  ...["perplexity, times", "other latents, times", "random directions, times", "reached"],
];
const cells = rows.map(({ concept, latents, unsteered: plain, holds, measured }) => {
  const [target] = measured;
  const of = (kind) =>
    measured
      .filter((one) => one.kind === kind)
      .map((one) => one.times.toFixed(1))
      .join(", ");
  return [
    ...[concept, latents.join(" + "), percent(plain.rate), percent(target.rate)],
    ...[target.times.toFixed(1), target.cost.toFixed(2), of("latent"), of("random")],
    holds ? "yes" : "no",
  ];
});
const reached = rows.filter(({ holds }) => holds).length;
const controls = rows
  .flatMap(({ measured }) => measured.slice(1))
  .filter(({ times, cost }) => times >= RISE && cost <= COST).length;
const summary = `${reached} of ${judged.length} concepts with at least ${ENOUGH} unsteered hits rise ${RISE}-fold at ${COST} times the perplexity or less; of ${4 * rows.length} controls, ${controls}.`;
process.stdout.write(`${textTable(head, cells)}\n\n${summary}\n`);
if (values.json) {
  const all = { run, judged, rows, table: { head, rows: cells, summary } };
  writeFileSync(values.json, JSON.stringify(all) + "\n");
  rmSync(part);
}
if (values.markdown) {
  const page = readFileSync(values.markdown, "utf8");
  const content = `${markdownTable(head, cells)}\n\n${summary}`;
  writeFileSync(values.markdown, betweenMarkers(page, "steering", content));
}
await model.close();
