/** Which files are read of data sets laid out as those on the hub are. */
import { describe, expect, test } from "vitest";

import { chooseSplit, configsByName, configsOfCard, configsOfConverted } from "./dataset-files.ts";
import { globMatcher } from "./glob.ts";

/** The files of a split, as a person asks for it. */
function chosen(
  paths: string[],
  { config, split, card }: { config?: string; split?: string; card?: string } = {},
) {
  const configs = (card && configsOfCard(card, paths, "a/b")) || configsByName(paths);
  return chooseSplit(configs, { config, split }, "a/b");
}

const refusal = (...args: Parameters<typeof chosen>): string => {
  try {
    chosen(...args);
  } catch (error) {
    return `${(error as Error).name}: ${(error as Error).message}`;
  }
  return "nothing was refused";
};

const shards = (start: string, count: number, end = ".parquet") =>
  Array.from({ length: count }, (_, i) => {
    const digits = (n: number) => String(n).padStart(5, "0");
    return `${start}-${digits(i)}-of-${digits(count)}${end}`;
  });

const card = (yaml: string) => `---\nlicense: mit\n${yaml}\n---\n# A data set\n`;

describe("without a list in the card, names tell", () => {
  // roneneldan/TinyStories before its card had configs, stanfordnlp/imdb, wikitext and others.
  test("shards of splits in data/", () => {
    const train = shards("data/train", 4);
    const paths = ["README.md", ".gitattributes", ...train, ...shards("data/validation", 1)];
    expect(chosen(paths)).toEqual({ config: "default", split: "train", paths: train });
    expect(chosen(paths, { config: "validation" }).paths).toEqual(shards("data/validation", 1));
    expect(chosen(paths, { config: "default", split: "dev" }).split).toBe("validation");
  });

  test("splits of any name in data/, when they are numbered", () => {
    const [sft, gen] = [shards("data/train_sft", 3), shards("data/train_gen", 2)];
    const paths = [...gen, ...sft];
    expect(chosen(paths, { config: "train_sft" })).toMatchObject({
      split: "train_sft",
      paths: sft,
    });
    expect(refusal(paths)).toMatch(
      /^UserError: .*a\/b \(config default\) has no split train; there are: train_gen, train_sft\. Choose one, such as a\/b:default\/train_gen\.$/,
    );
  });

  test("one folder around everything is the config that others know", () => {
    const train = shards("plain_text/train", 1);
    const paths = [
      ...train,
      ...shards("plain_text/test", 1),
      ...shards("plain_text/unsupervised", 1),
    ];
    expect(chosen(paths).paths).toEqual(train);
    expect(chosen(paths, { config: "plain_text", split: "test" }).paths).toHaveLength(1);
  });

  test("one file is for training, whatever it is called", () => {
    for (const path of ["stories.jsonl", "a/b/corpus.jsonl.gz", "openwebtext.csv", "x.txt"])
      expect(chosen(["README.md", path])).toEqual({ config: "default", split: "train", paths: [path] }); // prettier-ignore
    expect(chosen(["test.jsonl"])).toMatchObject({ split: "test", paths: ["test.jsonl"] });
  });

  test.each([
    ["TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"],
    ["Train.csv", "dev.csv"],
    ["train/0.jsonl", "validation/0.jsonl"],
    ["data/train/a.jsonl", "data/val/a.jsonl"],
    ["my_training-set 1.jsonl", "my.valid.jsonl"],
    ["c4-train.00000-of-01024.json.gz", "c4-validation.00000-of-00008.json.gz"],
  ])("%s is for training, %s for validation", (train, validation) => {
    const paths = [train, validation];
    expect(chosen(paths).paths).toEqual([train]);
    expect(chosen(paths, { config: "default", split: "validation" }).paths).toEqual([validation]);
  });

  test("words within other words are none", () => {
    const paths = ["contest.jsonl", "constraint.jsonl", "devices.jsonl"];
    expect(chosen(paths)).toMatchObject({ split: "train", paths: [...paths].sort() });
  });

  test("folders are configs, of which one is chosen, or all together", () => {
    const paths = ["data/en/train.jsonl", "data/de/train.jsonl", "data/de/test.jsonl"];
    expect(refusal(paths)).toMatch(/has several configs: de, en, default\. Choose one, such as a\/b:de\.$/); // prettier-ignore
    expect(chosen(paths, { config: "de" }).paths).toEqual(["data/de/train.jsonl"]);
    expect(chosen(paths, { config: "default" }).paths).toEqual(["data/de/train.jsonl", "data/en/train.jsonl"]); // prettier-ignore
    expect(refusal(paths, { config: "dee" })).toMatch(/no config dee; configs: de, en, default\. Did you mean de\?/); // prettier-ignore
  });

  test("Parquet is taken before other kinds, and what is no data not at all", () => {
    const parquet = shards("data/train", 1);
    const paths = ["train.jsonl", "dataset_infos.json", ".hidden/train.parquet", ...parquet];
    expect(chosen(paths).paths).toEqual(parquet);
    expect(chosen(["train.csv", "dataset_infos.json", "requirements.txt"]).paths).toEqual(["train.csv"]); // prettier-ignore
    expect(configsByName(["README.md", "a.jsonl.zst", "b.arrow", "dataset_infos.json"])).toEqual(
      [],
    );
  });
});

describe("a card's list", () => {
  const wiki = ["README.md", ...shards("wikitext-103-v1/train", 2), ...shards("wikitext-103-v1/test", 1), ...shards("wikitext-2-v1/train", 1)]; // prettier-ignore
  const listed = card(`configs:
- config_name: wikitext-103-v1
  data_files:
  - split: test
    path: wikitext-103-v1/test-*
  - split: train
    path: wikitext-103-v1/train-*
- config_name: wikitext-2-v1
  data_files: [{split: train, path: wikitext-2-v1/train-*}]`);

  test("names configs and their splits", () => {
    const options = { card: listed, config: "wikitext-103-v1" };
    expect(chosen(wiki, options).paths).toEqual(shards("wikitext-103-v1/train", 2));
    expect(chosen(wiki, { ...options, split: "test" }).paths).toHaveLength(1);
    expect(refusal(wiki, { ...options, split: "tset" })).toMatch(/no split tset; there are: test, train\. Did you mean test\?/); // prettier-ignore
    expect(refusal(wiki, { card: listed })).toMatch(
      /several configs: wikitext-103-v1, wikitext-2-v1/,
    );
    expect(refusal(wiki, { card: listed, config: "wikitext-3-v1" })).toMatch(/no config wikitext-3-v1; configs: .*Did you mean wikitext-2-v1\?/); // prettier-ignore
  });

  test("may say which config is meant when none is named", () => {
    const paths = ["en/a.json", "de/a.json"];
    const marked = card(`configs:
- {config_name: en, data_files: en/*.json}
- {config_name: de, data_files: "de/*.json", default: true}`);
    expect(chosen(paths, { card: marked })).toEqual({ config: "de", split: "train", paths: ["de/a.json"] }); // prettier-ignore
    const named = card(`configs:
- {config_name: default, data_files: "**/*.json"}
- {config_name: de, data_files: "de/*.json"}`);
    expect(chosen(paths, { card: named }).paths).toEqual(["de/a.json", "en/a.json"]);
  });

  test.each([
    ["a pattern", "data_files: data/*.parquet", ["data/a.parquet", "data/b.parquet"]],
    [
      "patterns, in their order",
      "data_files: [data/b*, data/*]",
      ["data/b.parquet", "data/a.parquet"],
    ],
    ["splits to patterns", "data_files: {train: data/a*, test: [data/b*]}", ["data/a.parquet"]],
    ["a folder, and patterns in it", "data_dir: data\n  data_files: '*'", ["data/a.parquet", "data/b.parquet"]], // prettier-ignore
    ["a folder alone", "data_dir: ./data/", ["data/a.parquet", "data/b.parquet"]],
    ["nothing but the name", "description: all", ["data/a.parquet", "data/b.parquet"]],
  ])("may name %s", (_, yaml, expected) => {
    const paths = ["README.md", "data/b.parquet", "data/a.parquet", "data/notes.txt"];
    expect(chosen(paths, { card: card(`configs:\n- config_name: x\n  ${yaml}`) }).paths).toEqual(
      expected,
    );
  });

  test.each([
    [
      "a file that is not there",
      "data_files: none/*",
      /names none\/\*, which is no file of it \(config x\)/,
    ],
    ["a file of another place", "data_files: hf://datasets/c/d/e.json", /hf:\/\/datasets\/c\/d\/e\.json, which lies elsewhere/], // prettier-ignore
    ["a kind that is not read", "data_files: '*.zst'", /names a\.jsonl\.zst, which is not \.txt, /],
    ["no pattern", "data_files: {train: 3}", /data_files that are no patterns: 3/],
    ["no split", "data_files: [{path: b.jsonl}]", /data_files without a split/],
  ])("that names %s is refused", (_, yaml, message) => {
    const said = refusal(["a.jsonl.zst", "b.jsonl"], {
      card: card(`configs:\n- config_name: x\n  ${yaml}`),
    });
    expect(said).toMatch(message);
    expect(said).toMatch(/^UserError: the card \(README\.md\) of dataset a\/b/);
  });

  test("is looked for in the front matter only", () => {
    const paths = ["b.jsonl"];
    for (const text of [
      "# configs:\n",
      "configs: [x]",
      card("pretty_name: x"),
      "---\r\nlicense: mit\r\n---\r\n",
    ])
      // prettier-ignore
      expect(configsOfCard(text, paths, "a/b")).toBeUndefined();
    expect(() => configsOfCard("---\na: [\n---\n", paths, "a/b")).toThrow(/front matter that is not YAML/); // prettier-ignore
  });
});

test("the hub's own Parquet has a folder for each config and split", () => {
  const paths = ["en/train/0000.parquet", "en/train/0001.parquet", "en/train_extra/0000.parquet", "de/partial-train/0000.parquet"]; // prettier-ignore
  const configs = configsOfConverted(paths);
  expect(chooseSplit(configs, { config: "en" }, "a/b").paths).toEqual(paths.slice(0, 2));
  expect(chooseSplit(configs, { config: "de" }, "a/b").split).toBe("partial-train");
  expect(() => chooseSplit(configs, { config: "de", split: "train" }, "a/b")).toThrow(
    /no split train; there are: partial-train\.$/,
  );
});

describe("a pattern", () => {
  test.each([
    ["data/*.json", "data/a.json", "data/a/b.json"],
    ["**/*.json", "a.json", "a.jsonl"],
    ["**/train*", "x/y/train-1", "xtrain"],
    ["a/**", "a/b/c", "b/a"],
    ["a/**/c", "a/c", "a/bc"],
    ["a/**/c", "a/b/d/c", "c"],
    ["?.txt", "a.txt", "ab.txt"],
    ["[0-9][!b].txt", "0a.txt", "0b.txt"],
    ["a.json", "a.json", "axjson"],
    ["**", "any/thing", undefined],
  ])("%s fits %s and not %s", (pattern, fits, other) => {
    expect(globMatcher(pattern)(fits)).toBe(true);
    if (other !== undefined) expect(globMatcher(pattern)(other)).toBe(false);
  });

  test("that is made to take forever takes no time", () => {
    const start = performance.now();
    expect(globMatcher(`${"*a".repeat(200)}b`)("a".repeat(1000))).toBe(false);
    expect(performance.now() - start).toBeLessThan(20_000);
  });
});
