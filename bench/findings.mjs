/**
 * `node bench/findings.mjs`: everything that docs/findings.md says in numbers and pictures, from the
 * commands that a reader would type. See --help.
 *
 * Each command's answer is kept in the output folder: interrupted, the same line goes on.
 */
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { count } from "./common.mjs";
import { betweenMarkers, markdownTable } from "./table.mjs";

const HELP = `node bench/findings.mjs [options]

  --out FOLDER      runs, answers and pictures; default: runs/findings
  --only LIST       some of capture,compose,concepts,steering,layers; default: all
  --markdown PAGE   also write the tables between the markers of this page, and the pictures beside it

About an hour on two cores, more than half of it for steering.
`;
const { values } = parseArgs({
  options: {
    out: { type: "string", default: "runs/findings" },
    only: { type: "string" },
    markdown: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
const root = fileURLToPath(new URL("..", import.meta.url));
const at = (name) => join(values.out, name);

/** What a command of Lens prints as JSON; from the output folder when it was asked the same before. */
function lens(name, ...words) {
  const file = at(`${name}.json`);
  const command = ["lens", ...words].join(" ");
  const kept = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined;
  if (kept?.command === command) return kept.answer;
  process.stderr.write(`\n${command}\n`);
  const text = execFileSync(process.execPath, [join(root, "bin/lens.js"), ...words, "--json"], {
    ...{ stdio: ["ignore", "pipe", "inherit"], encoding: "utf8", maxBuffer: 2 ** 28 },
  });
  const answer = JSON.parse(text);
  writeFileSync(`${file}.part`, JSON.stringify({ command, answer }));
  renameSync(`${file}.part`, file);
  return answer;
}
const runs = ["--runs", at("runs")];

/** Trained when a section first asks for them. */
const trained = {
  run: () => lens("run", "run", ...runs).folder,
  layers: () => lens("sweep", "train", "--sweep", ...runs, join(root, "examples/layers.yaml")).runs,
  words: () => lens("words", "train", ...runs, join(root, "examples/concepts.yaml")).folder,
};

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const within = ({ value, low, high }, digits = 2) =>
  `${value.toFixed(digits)} (${low.toFixed(digits)}${low < 0 ? " to " : "–"}${high.toFixed(digits)})`;
const percentWithin = ({ value, low, high }) =>
  `${percent(value)} (${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)})`;
const paragraphs = (...parts) => parts.join("\n\n");
/** Keeps a figure beside the page. */
const picture = (from, name, alt) => {
  copyFileSync(from, at(`findings-${name}.png`));
  return `![${alt}](findings-${name}.png)`;
};

function capture() {
  const run = trained.run();
  const { summary, latents, positions } = lens("explain", "explain", run, "--top", "200");
  const { maps, suspects, files } = lens("map", "feature", "map", run);
  const named = latents.filter(({ rules }) => rules[0].f1.value >= 0.8);
  const kinds = [...new Set(named.map(({ rules }) => rules[0].kind))]
    .map((kind) => [kind, named.filter(({ rules }) => rules[0].kind === kind)])
    .toSorted(([, a], [, b]) => b.length - a.length);
  const rows = kinds.flatMap(([kind, list]) =>
    list
      .slice(0, 3)
      .map(({ latent, rules: [rule], chance, firings }) => [
        ...[kind, String(latent), rule.text, within(rule.f1), chance.shuffled.toFixed(3)],
        ...[percent(rule.coverage.value, 0), count(firings.test)],
      ]),
  );
  const suspected = ["duplicate", "split", "absorbed"].map(
    (kind) => `${suspects.suspects.filter((one) => one.kind === kind).length} ${kind}`,
  );
  return paragraphs(
    `Rules chosen on ${count(positions.train)} tokens, measured on ${count(positions.test)} others: ${summary.named} of ${count(summary.judged)} latents have a rule with F1 ≥ 0.8 for the strongest half of their activation or more (labels moved along the text: ${summary.namedShuffled}); counting every firing, however weak: ${summary.namedAny}. Median F1 of the best rule ${summary.medianF1.toFixed(2)}, moved labels ${summary.medianShuffled.toFixed(2)}, always saying yes ${summary.medianAlways.toFixed(2)}. By kind of rule: ${kinds.map(([kind, list]) => `${kind} ${list.length}`).join(", ")}.`,
    markdownTable(
      ["rule", "latent", "says", "F1", "moved labels", "of its activation", "firings"],
      rows,
    ),
    picture(
      files.find((file) => file.endsWith("co-activation.png")),
      ...[
        "map",
        "All latents, near to each other where they fire together, some named by what excites them",
      ],
    ),
    `${maps.map(({ kind, trustworthiness: { value, random } }) => `Trustworthiness of the map by ${kind === "decoder" ? "decoder directions" : "common firing"} ${value.toFixed(3)} (dealt out at random ${random.toFixed(3)})`).join("; ")}. Pairs that look cut in the wrong place, of ${count(suspects.pairs)} nearest ones: ${suspected.join(", ")}.`,
  );
}

function compose() {
  const { pairs, triples, nodes } = lens("compose", "compose", trained.run());
  const [, one, two] = trained.layers();
  const links = lens("links", "compose", one, "--with", two, "--out", at("links"));
  const meaning = (latent) => {
    const node = nodes.find((other) => other.latent === latent);
    return node?.meaning ? `${latent} (${node.meaning})` : String(latent);
  };
  const { together, apart } = pairs;
  const pairRows = [
    ["together", together],
    ["apart", apart],
  ].flatMap(([what, { listed }]) =>
    listed
      .slice(0, 4)
      .map((pair) => [
        ...[what, ...pair.latents.map(meaning), count(pair.together)],
        ...[pair.expected.toFixed(1), pair.turned.toFixed(1), within(pair.phi)],
      ]),
  );
  const tripleRows = [
    ["both are needed", triples.and],
    ["either, not both", triples.either],
  ].flatMap(([what, { listed }]) =>
    listed
      .slice(0, 3)
      .map(({ latents, both, shares: { alone, predicted } }) => [
        ...[what, ...latents.map(meaning), percentWithin(both)],
        ...[...alone.map((share) => percent(share)), percent(predicted)],
      ]),
  );
  const found = ({ found: n, tests, null: byChance, confirmed }) =>
    `${count(n)} of ${count(tests)} (turned text: ${byChance}; of the first 200, ${confirmed} hold on the other documents)`;
  const chosen = ({ found: n, chosen: of, null: byChance }) =>
    `${n} of ${of} chosen hold on the other documents (turned text: ${byChance})`;
  const { agreement } = links.links.weights;
  return paragraphs(
    `Pairs that fire together more than chance allows: ${found(together)}. Less than chance allows: ${found(apart)}.`,
    markdownTable(
      ["", "latent", "and", "together", "if independent", "turned text", "phi"],
      pairRows,
    ),
    `Pairs that predict a third as neither of them does: ${chosen(triples.and)}. Either predicts it, both at once do not: ${chosen(triples.either)}.`,
    markdownTable(
      ["", "latent", "and", "third", "P(third, both)", "first alone", "second alone", "noisy or"],
      tripleRows,
    ),
    `From one layer to the next: over ${count(agreement.pairs)} pairs of a latent at \`blocks.1\` and one at \`blocks.2\`, the rank correlation of decoder · encoder and of how much likelier the one makes the other is ${agreement.rank.toFixed(3)} (encoders dealt out anew: ${agreement.null.low.toFixed(3)} to ${agreement.null.high.toFixed(3)}).`,
    picture(join(trained.run(), "compose/compose.png"), "compose", "Latents that fire together"),
  );
}

/** A line for each way to have one column for a concept. */
function coverageRows(where, { concepts, auc95, directions, full }) {
  const row = (what, share, f1Of) => [
    ...[where, what, `${share.count} of ${concepts.length}`, percentWithin(share)],
    String(concepts.filter((one) => f1Of(one).value >= 0.5).length),
  ];
  const ofKind = (kind) => (one) => one.directions.find((other) => other.kind === kind).best.f1;
  return [
    row("one latent", auc95, ({ best }) => best.f1),
    [where, "one latent, labels moved along the text", "", percent(auc95.shuffled), ""],
    ...directions.map((one) => row(DIRECTIONS[one.kind], one, ofKind(one.kind))),
    row("all dimensions, a linear probe", full, (one) => one.full.f1),
  ];
}
const DIRECTIONS = {
  raw: "one dimension",
  random: "one of as many random directions",
  pca: "one principal component",
};

function concepts() {
  const run = trained.run();
  const own = lens("concepts", "concepts", run, "--tokens", "200000");
  const words = lens("concepts-words", "concepts", trained.words(), "--tokens", "200000");
  const { supervised } = lens("supervised", "eval", run, "--supervised");
  const { structure } = lens("structure", "eval", run, "--structure");
  const best = own.concepts
    .slice(0, 8)
    .map(({ concept, best: { latent, auc, f1 }, byChance, directions, full }) => [
      ...[concept, String(latent), within(auc, 3), byChance.auc.toFixed(3)],
      ...[directions.find(({ kind }) => kind === "raw").best.auc.value.toFixed(3)],
      ...[full.auc.value.toFixed(3), within(f1)],
    ]);
  return paragraphs(
    `By latent and concept, on ${count(own.positions.test)} tokens that had no part in the choice; the clearest of ${own.concepts.length}:`,
    markdownTable(
      ["concept", "latent", "AUC", "moved labels", "best dimension", "linear probe", "F1"],
      best,
    ),
    "Concepts that one column tells with an AUC of 0.95 or more, of those with 20 tokens or more in either half:",
    markdownTable(
      ["autoencoder", "column", "AUC ≥ 0.95", "share", "F1 ≥ 0.5"],
      [
        ...coverageRows("`lens run`, `blocks.2.hook_resid_post`", own),
        ...coverageRows("`examples/concepts.yaml`, `hook_embed`", words),
      ],
    ),
    picture(
      join(run, "concepts/concepts.png"),
      ...["concepts", "AUC of each concept's best latent against its best dimension"],
    ),
    "Where the answer is known, and without labels (every line with what it is to be compared with):",
    markdownTable(
      ["measure", "this autoencoder", "beside it"],
      [...supervisedRows(supervised), ...structureRows(structure)],
    ),
  );
}

function supervisedRows({ sparseProbing, scr, tpp, absorption, interchange }) {
  const probe = (probed, k) =>
    sparseProbing.tokens.means.find((one) => one.probed === probed && one.k === k);
  const removed = scr.means.find(({ n }) => n === 20).toMean;
  const perturbed = tpp.removed.find(({ n }) => n === 20);
  const mean = interchange.mean;
  const { fraction, full, null: along } = absorption.mean;
  return [
    ...[1, 10].map((k) => [
      `sparse probing, tokens, k = ${k}: accuracy`,
      within(probe("latents", k).accuracy, 3),
      `dimensions ${probe("neurons", k).accuracy.value.toFixed(3)}; chance 0.5`,
    ]),
    [
      "SCR, 20 latents set to their mean",
      ...[within(removed.score, 3), `random latents ${removed.null.toFixed(3)}`],
    ],
    [
      "TPP, 20 latents",
      ...[within(perturbed.score, 3), `random latents ${perturbed.null.value.toFixed(3)}`],
    ],
    [
      "absorption, fraction",
      ...[within(fraction, 3), `random directions ${along.fraction.toFixed(3)}`],
    ],
    ["absorption, full", within(full, 3), `random directions ${along.full.toFixed(3)}`],
    [
      "interchange of characters' attributes, disentangle",
      within(mean.latents.disentangle, 3),
      `dimensions ${mean.dimensions.disentangle.value.toFixed(3)}; random latents ${mean.null.toFixed(3)}`,
    ],
  ];
}

function structureRows({ mdl: { bits }, metaSae }) {
  return [
    [
      "bits per position (MDL)",
      within(bits.codes, 1),
      `principal components ${bits.components.value.toFixed(1)}, dimensions ${bits.dimensions.value.toFixed(1)}`,
    ],
    [
      "variance of held-out decoder rows that a meta-SAE explains",
      within(metaSae.heldOut, 3),
      `random rows ${metaSae.null.random.heldOut.value.toFixed(3)}, shuffled rows ${metaSae.null.shuffled.heldOut.value.toFixed(3)}`,
    ],
  ];
}

function steering() {
  const run = trained.run();
  const measured = at("steering.json");
  if (!existsSync(measured))
    execFileSync(process.execPath, [join(root, "bench/steering.mjs"), run, "--json", measured], {
      stdio: ["ignore", "ignore", "inherit"],
    });
  const { table, rows } = JSON.parse(readFileSync(measured, "utf8"));
  const { concept } = rows.find(({ holds }) => holds) ?? rows[0];
  const strengths = "0.4,0.6,0.7,0.8,0.9,1";
  const by = ["--find", concept, "--by", "effect", "--together", "8"];
  const figures = at("dose");
  lens(
    ...["dose", "steer", "--run", run, ...by, "--dose", strengths, "--texts", "48"],
    ...["--temperature", "1", "--out", figures],
  );
  const png = readdirSync(figures).find((name) => name.endsWith("-rate.png"));
  return paragraphs(
    markdownTable(table.head, table.rows),
    table.summary,
    picture(join(figures, png), "steering", `How often ${concept} comes, strength by strength`),
  );
}

function layers() {
  const folders = trained.layers();
  const {
    steps,
    concepts: courses,
    autoencoders,
  } = lens(...["layers", "layers", ...folders, "--out", at("layers")]);
  const short = (hookPoint) => hookPoint.replace(/blocks\.(\d+)\.hook_/, "$1 ");
  const kinds = ["shared", "split", "merged", "related", "lost"];
  const rows = steps.map(({ from, to, counts, oneToOne, decoders }) => [
    `${short(from)} → ${short(to)}`,
    ...kinds.map((kind) => `${counts.a[kind].count} (${counts.a[kind].null})`),
    `${counts.b.new.count} (${counts.b.new.null})`,
    ...[oneToOne, decoders].map(
      ({ mean, null: byChance }) => `${mean.toFixed(2)} (${byChance.mean.toFixed(2)})`,
    ),
  ]);
  const byLayer = autoencoders.map(({ name }, i) => {
    const own = courses.map(({ at }) => at[i]);
    const mean = (value) => own.reduce((sum, one) => sum + value(one), 0) / own.length;
    return [
      short(name),
      ...["appears", "peak", "fades"].map((what) =>
        String(courses.filter((course) => course[what] === i).length),
      ),
      ...[mean(({ auc }) => auc.value), mean((one) => one.null)].map((v) => v.toFixed(3)),
      mean(({ f1 }) => f1).toFixed(3),
    ];
  });
  return paragraphs(
    "Latents of one layer by what becomes of them in the next; in brackets what is found when the second's codes are moved along the text:",
    markdownTable(["", ...kinds, "new", "one-to-one r", "cosine"], rows),
    `The best latent of each of ${courses.length} concepts, layer by layer:`,
    markdownTable(
      ["hook point", "appear", "peak", "fade", "mean AUC", "moved labels", "mean F1"],
      byLayer,
    ),
    picture(join(at("layers"), "concepts.png"), "layers", "AUC of concepts from layer to layer"),
  );
}

if (values.help) {
  process.stdout.write(HELP);
} else {
  const sections = { capture, compose, concepts, steering, layers };
  const names = values.only?.split(",") ?? Object.keys(sections);
  for (const name of names)
    if (!Object.hasOwn(sections, name))
      throw new Error(`there is no section ${name}: ${Object.keys(sections).join(", ")}`);
  mkdirSync(values.out, { recursive: true });
  for (const name of names) {
    const content = sections[name]();
    process.stdout.write(`## ${name}\n\n${content}\n\n`);
    if (!values.markdown) continue;
    const page = readFileSync(values.markdown, "utf8");
    writeFileSync(values.markdown, betweenMarkers(page, name, content));
    for (const [, file] of content.matchAll(/\]\((findings-[a-z]+\.png)\)/g))
      copyFileSync(at(file), join(dirname(values.markdown), file));
  }
}
