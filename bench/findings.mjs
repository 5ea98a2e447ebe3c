/**
 * `node bench/findings.mjs`: everything that docs/findings.md says in numbers and pictures, from the
 * commands that a reader would type. See --help.
 *
 * Each command's answer is kept in the output folder: interrupted, the same line goes on.
 */
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { betweenMarkers, markdownTable } from "./table.mjs";

const HELP = `node bench/findings.mjs [options]

  --out FOLDER      runs, answers and pictures; default: runs/findings
  --only LIST       some of capture,compose,concepts,steering,layers; default: all
  --markdown PAGE   also write the tables between the markers of this page, and the pictures beside it

About an hour on two cores, half of it for steering.
`;
const { values } = parseArgs({
  options: {
    out: { type: "string", default: "runs/findings" },
    only: { type: "string", default: "capture,compose,concepts,steering,layers" },
    markdown: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const root = fileURLToPath(new URL("..", import.meta.url));
const out = values.out;
mkdirSync(out, { recursive: true });

/** What `node ARGUMENTS` prints, as JSON; from the output folder when it was asked before. */
function answer(name, ...command) {
  const file = join(out, `${name}.json`);
  if (!existsSync(file)) {
    process.stderr.write(`\n${command.join(" ")}\n`);
    const text = execFileSync(process.execPath, command, {
      ...{ stdio: ["ignore", "pipe", "inherit"], encoding: "utf8", maxBuffer: 2 ** 28 },
    });
    writeFileSync(`${file}.part`, text);
    renameSync(`${file}.part`, file);
  }
  return JSON.parse(readFileSync(file, "utf8"));
}
const lens = (name, ...command) => answer(name, join(root, "bin/lens.js"), ...command, "--json");
const runs = ["--runs", join(out, "runs")];

/** A trained run, and four for the layers of the model; made when a section asks for them. */
const folders = {
  run: () => lens("run", "run", ...runs).folder,
  layers: () => lens("sweep", "train", "--sweep", ...runs, join(root, "examples/layers.yaml")).runs,
  words: () => lens("words", "train", ...runs, join(root, "examples/concepts.yaml")).folder,
};

const count = (n) => n.toLocaleString("en-US");
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const within = ({ value, low, high }, digits = 2) =>
  `${value.toFixed(digits)} (${low.toFixed(digits)}–${high.toFixed(digits)})`;
const withinPercent = ({ value, low, high }) =>
  `${percent(value)} (${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)})`;
const picture = (from, name, alt) => {
  copyFileSync(from, join(out, `findings-${name}.png`));
  return `![${alt}](findings-${name}.png)`;
};

const sections = {
  capture() {
    const run = folders.run();
    const { summary, latents, positions } = lens("explain", "explain", run, "--top", "12");
    const { maps } = lens("map", "feature", "map", run, "--out", join(out, "map"));
    return "";
  },
};
