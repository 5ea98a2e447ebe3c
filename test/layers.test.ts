/**
 * Who may import whom. Imports point downward only: leaves <- device <- {model, sae} <-
 * {analysis, runs} <- workbench <- server <- cli; `model` and `sae` never see each other.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { expect, test } from "vitest";

/** File (relative to src/) -> what it imports, as written; type-only imports as "type NAME". */
type Sources = Record<string, string[]>;

/** Layer -> the layers it may import; each may import itself. */
const ALLOWED: Record<string, string[]> = {
  leaf: [],
  corpus: ["leaf"],
  device: ["leaf"],
  model: ["leaf", "corpus", "device"],
  sae: ["leaf", "device"],
  runs: ["leaf"],
  analysis: ["leaf", "corpus", "device", "model", "sae"],
  workbench: ["leaf", "corpus", "device", "model", "sae", "analysis", "runs"],
  server: ["leaf", "corpus", "device", "model", "sae", "analysis", "runs", "workbench"],
  cli: ["leaf", "corpus", "device", "model", "sae", "analysis", "runs", "workbench", "server"],
  index: ["leaf", "corpus", "device", "model", "sae", "analysis", "runs"],
};

/** Layers that run in a browser too, and the only files in them that may know they run in Node. */
const PORTABLE = ["leaf", "corpus", "device", "sae"];
const NODE_ONLY = [
  "platform.node.ts",
  "lock.ts",
  // These open files or threads.
  "open-file.ts",
  "safetensors.ts",
  "safetensors-write.ts",
  "npy.ts",
  "device/cpu.ts",
  "device/cpu-worker.ts",
  "sae/formats.ts",
  "sae/checkpoint.ts",
];

const src = fileURLToPath(new URL("../src", import.meta.url));
const sources = readSources();

test("every import in src points downward", () => {
  expect(upwardImports(sources)).toEqual([]);
});

test("no file in src is part of an import cycle at run time", () => {
  expect(cycles(sources)).toEqual([]);
});

test("only the listed files below model and analysis import node: modules", () => {
  expect(nodeImports(sources)).toEqual([]);
});

test("there is one barrel, src/index.ts", () => {
  const barrels = Object.keys(sources).filter((file) => {
    if (file === "index.ts") return false;
    const text = ts.createSourceFile(file, readFileSync(join(src, file), "utf8"), 99);
    return (
      text.statements.length > 0 &&
      text.statements.every(
        (s) => ts.isImportDeclaration(s) || (ts.isExportDeclaration(s) && s.moduleSpecifier),
      ) &&
      text.statements.some((s) => ts.isExportDeclaration(s))
    );
  });
  expect(barrels).toEqual([]);
});

test("every relative import names a file that exists, with its .ts ending", () => {
  const missing = edges(sources).filter(({ to }) => !existsSync(join(src, to)));
  expect(missing).toEqual([]);
});

test("the rules catch made-up violations", () => {
  const bad: Sources = {
    "rng.ts": ["node:fs", "type ./device/device.ts"],
    "error.ts": [],
    "device/device.ts": ["../error.ts"],
    "sae/sae.ts": ["../model/model.ts", "node:os"],
    "model/model.ts": ["../device/device.ts"],
    "analysis/report.ts": ["../runs.ts", "../sae/sae.ts", "../cli/main.ts"],
    "runs.ts": ["node:fs", "./error.ts"],
    "cli/main.ts": ["../analysis/report.ts"],
    "nowhere/new.ts": ["../error.ts"],
  };
  expect(upwardImports(bad)).toEqual([
    "rng.ts (leaf) imports device/device.ts (device)",
    "sae/sae.ts (sae) imports model/model.ts (model)",
    "analysis/report.ts (analysis) imports runs.ts (runs)",
    "analysis/report.ts (analysis) imports cli/main.ts (cli)",
    "nowhere/new.ts lies in no layer",
  ]);
  expect(cycles(bad)).toEqual(["analysis/report.ts -> cli/main.ts -> analysis/report.ts"]);
  expect(nodeImports(bad)).toEqual(["rng.ts imports node:fs", "sae/sae.ts imports node:os"]);
});

test("imports of every form are seen", () => {
  const text = `
    import a from "./a.ts";
    import type { B } from "./b.ts";
    export { c } from "./c.ts";
    const d = await import("./d.ts");
    let e: import("./e.ts").E;
    new Worker(new URL("./f.ts", import.meta.url));
    // import "./comment.ts"
  `;
  expect(importsOf(text)).toEqual([
    "./a.ts",
    "type ./b.ts",
    "./c.ts",
    "./d.ts",
    "type ./e.ts",
    "./f.ts",
  ]);
});

function layerOf(file: string): string | undefined {
  const [first, ...rest] = file.split("/");
  if (rest.length > 0) return first in ALLOWED ? first : undefined;
  if (first === "index.ts" || first === "runs.ts") return first.replace(".ts", "");
  return "leaf";
}

function upwardImports(graph: Sources): string[] {
  const homeless = Object.keys(graph).filter((file) => layerOf(file) === undefined);
  const upward = edges(graph).filter(({ from, to }) => {
    const [above, below] = [layerOf(from), layerOf(to)];
    if (above === undefined || below === undefined) return false;
    return above !== below && !ALLOWED[above].includes(below);
  });
  return [
    ...upward.map(({ from, to }) => `${from} (${layerOf(from)}) imports ${to} (${layerOf(to)})`),
    ...homeless.map((file) => `${file} lies in no layer`),
  ];
}

function nodeImports(graph: Sources): string[] {
  return Object.entries(graph)
    .filter(([file]) => PORTABLE.includes(layerOf(file) ?? "") && !NODE_ONLY.includes(file))
    .flatMap(([file, names]) =>
      names.filter((name) => name.startsWith("node:")).map((name) => `${file} imports ${name}`),
    );
}

/** One line per cycle of imports that exist at run time, found by walking depth first from every file. */
function cycles(graph: Sources): string[] {
  const targets = new Map<string, string[]>();
  for (const { from, to } of edges(graph, false))
    targets.set(from, [...(targets.get(from) ?? []), to]);
  const done = new Set<string>();
  const found: string[] = [];
  const walk = (file: string, path: string[]) => {
    const at = path.indexOf(file);
    if (at >= 0) {
      found.push([...path.slice(at), file].join(" -> "));
      return;
    }
    if (done.has(file)) return;
    for (const next of targets.get(file) ?? []) walk(next, [...path, file]);
    done.add(file);
  };
  for (const file of Object.keys(graph)) walk(file, []);
  return found;
}

/** Imports between files of src; those that exist for the compiler only when `types` is true. */
function edges(graph: Sources, types = true): { from: string; to: string }[] {
  return Object.entries(graph).flatMap(([from, names]) =>
    names
      .filter((name) => types || !name.startsWith("type "))
      .map((name) => name.replace("type ", ""))
      .filter((name) => name.startsWith("."))
      .map((name) => ({ from, to: posix.join(posix.dirname(from), name) })),
  );
}

/** Module names a source text imports, by any syntax, workers started by URL included; a type-only import begins with "type ". */
function importsOf(text: string): string[] {
  const names = new Set<string>();
  const add = (name: ts.Node | undefined, prefix = "") => {
    if (name !== undefined && ts.isStringLiteral(name)) names.add(prefix + name.text);
  };
  const file = ts.createSourceFile("source.ts", text, ts.ScriptTarget.Latest);
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node))
      add(node.moduleSpecifier, node.importClause?.isTypeOnly ? "type " : "");
    else if (ts.isExportDeclaration(node))
      add(node.moduleSpecifier, node.isTypeOnly ? "type " : "");
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument))
      add(node.argument.literal, "type ");
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword)
      add(node.arguments[0]);
    else if (ts.isNewExpression(node) && node.expression.getText(file) === "URL") {
      const [name, base] = node.arguments ?? [];
      const isModule = name && ts.isStringLiteral(name) && /\.[jt]s$/.test(name.text);
      if (isModule && base?.getText(file) === "import.meta.url") add(name);
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return [...names];
}

function readSources(): Sources {
  const found: Sources = {};
  for (const entry of readdirSync(src, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.endsWith(".ts") || entry.name.endsWith(".test.ts")) continue;
    const path = join(entry.parentPath ?? dirname(src), entry.name);
    const file = path
      .slice(src.length + 1)
      .split("\\")
      .join("/");
    if (file.startsWith("device/assembly/")) continue;
    found[file] = importsOf(readFileSync(path, "utf8"));
  }
  return found;
}
