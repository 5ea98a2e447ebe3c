import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { afterAll, describe, expect, test } from "vitest";

import { UserError } from "../error.ts";
import { loadTokenizer } from "./tokenizer.ts";

const fixture = fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url));
const tokenizer = await loadTokenizer(fixture);
const folder = await mkdtemp(join(tmpdir(), "lens-tokenizer-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

interface Case {
  text: string;
  ids: number[];
  /** In code points, as Hugging Face's tokenizers count. */
  offsets: [number, number][];
}
const cases = JSON.parse(await readFile(join(fixture, "tokenizer-cases.json"), "utf8")) as Case[];

const json = JSON.parse(await readFile(join(fixture, "tokenizer.json"), "utf8")) as Record<
  string,
  unknown
>;

/** UTF-16 index of the n-th code point, for every n up to the length. */
function codePointStarts(text: string): number[] {
  const starts = [0];
  for (const character of text) starts.push(starts.at(-1)! + character.length);
  return starts;
}

describe("a byte-level tokenizer", () => {
  test.each(cases)("gives the ids and characters of Hugging Face's for $text", (expected) => {
    const { ids, starts, ends } = tokenizer.encode(expected.text);
    expect([...ids]).toEqual(expected.ids);
    const at = codePointStarts(expected.text);
    expect(Array.from(ids, (_, i) => [starts[i], ends[i]])).toEqual(
      expected.offsets.map(([start, end]) => [at[start], at[end]]),
    );
  });

  test.each(cases)("decodes what it encoded: $text", ({ text }) => {
    const { ids, starts, ends } = tokenizer.encode(text);
    expect(tokenizer.decode(ids)).toBe(text);
    // Tokens cover the text without a gap, in order.
    let covered = 0;
    for (let i = 0; i < ids.length; i++) {
      expect(starts[i]).toBeLessThanOrEqual(covered);
      expect(ends[i]).toBeGreaterThan(starts[i]);
      covered = ends[i];
    }
    expect(covered).toBe(text.length);
  });

  test("a long text has the tokens that it has in one piece", () => {
    const hard = [
      "don't",
      "  two",
      "x1 2",
      "é🦊 日本",
      "end.\n\n",
      "\t",
      "A-b",
      "<|endoftext|>",
      "\r\nfox ",
    ];
    const part = Array.from({ length: 5000 }, (_, i) => hard[(i * i + i) % 9] + hard[i % 7]).join(
      "",
    );
    const text = part.repeat(Math.ceil((3 * 2 ** 18) / part.length));
    const { ids } = tokenizer.encode(text);
    expect(tokenizer.decode(ids) === text).toBe(true);
    const Library = HuggingFaceTokenizer as unknown as new (...files: object[]) => {
      encode(text: string, options: object): { ids: number[] };
    };
    const inner = new Library(json, {});
    expect(Array.from(ids)).toEqual(inner.encode(text, { add_special_tokens: false }).ids);
  });

  test("every token that holds a byte of a character covers that character", () => {
    const { ids, starts, ends } = tokenizer.encode("a🦊b");
    expect(ids).toHaveLength(6); // the fox is four bytes, which this vocabulary has no merges for
    expect([...starts]).toEqual([0, 1, 1, 1, 1, 3]);
    expect([...ends]).toEqual([1, 3, 3, 3, 3, 4]);
    expect(tokenizer.decode(ids.subarray(1, 3))).toBe("\ufffd");
    expect([...tokenizer.tokenBytes(ids[1])]).toEqual([0xf0]);
  });

  test("a lone surrogate is read as U+FFFD, and the offsets stay right", () => {
    const { ids, starts, ends } = tokenizer.encode("a\ud83e b");
    expect(tokenizer.decode(ids)).toBe("a\ufffd b");
    expect([starts[0], starts[1], ends[3], ends.at(-1)]).toEqual([0, 1, 2, 4]);
  });

  test("knows its size, its special tokens and its hash, and adds no token by itself", () => {
    expect([tokenizer.vocabSize, tokenizer.bosId, tokenizer.eosId]).toEqual([300, 0, 0]);
    expect(tokenizer.hash).toMatch(/^[0-9a-f]{16}$/);
    expect(tokenizer.encode("").ids).toHaveLength(0);
    expect(tokenizer.decode([])).toBe("");
    expect(tokenizer.decode([0])).toBe("<|endoftext|>");
    expect(() => tokenizer.tokenBytes(300)).toThrow("no token 300; ids run from 0 to 299");
    expect(() => tokenizer.decode([-1])).toThrow("no token -1");
  });
});

describe("loading a tokenizer", () => {
  let made = 0;
  const load = async (changes: Record<string, unknown>, config?: object) => {
    const path = join(folder, String(made++));
    await mkdir(path);
    await writeFile(join(path, "tokenizer.json"), JSON.stringify({ ...json, ...changes }));
    if (config) await writeFile(join(path, "tokenizer_config.json"), JSON.stringify(config));
    return loadTokenizer(path, { bosId: 7, eosId: null });
  };

  test("takes the special tokens from its own configuration, else from the model's", async () => {
    const own = await load(
      {},
      { bos_token: { content: "<|endoftext|>" }, eos_token: "no such token" },
    );
    expect([own.bosId, own.eosId]).toEqual([0, null]);
    const models = await load({});
    expect([models.bosId, models.eosId]).toEqual([7, null]);
  });

  test("that would not keep the bytes of the text is refused", async () => {
    const byteLevel = json["pre_tokenizer"] as object;
    const model = json["model"] as Record<string, unknown>;
    const cases: [Record<string, unknown>, string][] = [
      [{ model: { type: "Unigram", vocab: [] } }, "its model is Unigram"],
      [{ model: { ...model, byte_fallback: true } }, "its pre-tokenizer is ByteLevel"],
      [{ model: null }, 'no "model"'],
      [{ normalizer: { type: "NFKC" } }, "normalizes text (NFKC)"],
      [{ normalizer: { type: "Sequence", normalizers: [{ type: "NFC" }, { type: "Lowercase" }] } }, "normalizes text (Lowercase)"], // prettier-ignore
      [{ pre_tokenizer: { type: "Whitespace" } }, "Whitespace, without ByteLevel"],
      [{ pre_tokenizer: { ...byteLevel, add_prefix_space: true } }, "adds a space"],
      [{ added_tokens: [{ id: 0, content: "<x>", lstrip: true }] }, "<x> swallows the spaces"],
      [
        { model: { ...model, vocab: { a: 0, "€": 1 }, merges: [] } },
        "not in the byte-level alphabet",
      ],
    ];
    for (const [changes, message] of cases) {
      await expect(load(changes)).rejects.toThrow(message);
      await expect(load(changes)).rejects.toBeInstanceOf(UserError);
    }
  });

  test("whose vocabulary lacks a byte says so instead of dropping text", async () => {
    const vocab = { "<|endoftext|>": 0, a: 1, b: 2 };
    const small = await load({ model: { type: "BPE", vocab, merges: [] } });
    expect([...small.encode("abba").starts]).toEqual([0, 1, 2, 3]);
    expect(() => small.encode("abc")).toThrow(/does not keep every byte of "abc"/);
    expect(() => small.encode("cab")).toThrow(/does not keep every byte/);
  });

  test("that is missing or damaged is refused by name", async () => {
    await expect(loadTokenizer(folder)).rejects.toThrow("tokenizer.json does not exist");
    await writeFile(join(folder, "tokenizer.json"), "[");
    await expect(loadTokenizer(folder)).rejects.toThrow("tokenizer.json is not JSON");
  });
});

describe.each(["llama", "metaspace", "gemma", "nfc"])(
  "a tokenizer of the kind %s",
  async (kind) => {
    const own = fileURLToPath(new URL(`../../test/fixtures/tokenizers/${kind}`, import.meta.url));
    const known = JSON.parse(await readFile(join(own, "cases.json"), "utf8")) as Case[];
    const tokenizer = await loadTokenizer(own);

    test.each(known)(
      "gives the ids and characters of Hugging Face's for $text",
      ({ text, ...expected }) => {
        const { ids, starts, ends } = tokenizer.encode(text);
        expect([...ids]).toEqual(expected.ids);
        const at = codePointStarts(text);
        expect([...starts]).toEqual(expected.offsets.map(([start]) => at[start]));
        for (const [i, [start, end]] of expected.offsets.entries()) {
          // Of a character that was composed of several theirs has the first only.
          const whole = text.slice(at[start], ends[i]);
          const isComposed = kind === "nfc" && whole.normalize("NFC") !== whole;
          if (isComposed) expect(whole.normalize("NFC")).toHaveLength(1);
          else expect(ends[i]).toBe(at[end]);
        }
      },
    );

    test.each(known)(
      "covers the text without a gap, in order, and decodes it: $text",
      ({ text }) => {
        const { ids, starts, ends } = tokenizer.encode(text);
        let covered = 0;
        for (let i = 0; i < ids.length; i++) {
          expect(starts[i]).toBeLessThanOrEqual(covered);
          covered = Math.max(covered, ends[i]);
        }
        expect(covered).toBe(text.length);
        const decoded = tokenizer.decode(ids);
        // A space is put before the text, or before what follows a special token.
        const put = { llama: /(^|<\/?s>) /g, metaspace: text.startsWith(" ") ? /$^/ : /(^) / }[
          kind
        ];
        const wanted = kind === "nfc" ? text.normalize("NFC") : text;
        expect(put ? decoded.replace(put, "$1") : decoded).toBe(wanted);
      },
    );
  },
);

describe.each(["bert", "bert-cased"])("WordPiece of the kind %s", async (kind) => {
  const own = fileURLToPath(new URL(`../../test/fixtures/tokenizers/${kind}`, import.meta.url));
  const known = JSON.parse(await readFile(join(own, "cases.json"), "utf8")) as Case[];
  const tokenizer = await loadTokenizer(own);

  test.each(known)(
    "gives the ids and characters of Hugging Face's for $text",
    ({ text, ...expected }) => {
      const { ids, starts, ends } = tokenizer.encode(text);
      expect([...ids]).toEqual(expected.ids);
      const at = codePointStarts(text);
      expect(Array.from(ids, (_, i) => [starts[i], ends[i]])).toEqual(
        expected.offsets.map(([start, end]) => [at[start], at[end]]),
      );
    },
  );

  test("knows the tokens around a text, and writes words apart", () => {
    expect([tokenizer.bosId, tokenizer.eosId]).toEqual([2, 3]);
    const { ids } = tokenizer.encode("[CLS]The  fox");
    expect(tokenizer.decode(ids)).toBe(kind === "bert" ? "[CLS] the fox" : "[CLS] The fox");
    expect(new TextDecoder().decode(tokenizer.tokenBytes(ids.at(-1)!))).not.toContain("#");
    expect(() => tokenizer.tokenBytes(5000)).toThrow("no token 5000");
  });

  test("settings that would be followed wrongly are refused", async () => {
    const copy = await mkdtemp(join(folder, "word-piece-"));
    const json = JSON.parse(await readFile(join(own, "tokenizer.json"), "utf8")) as object;
    const model = (json as { model: object }).model;
    const cases: [object, string][] = [
      [{ normalizer: { type: "Lowercase" } }, "normalizer is Lowercase, not BertNormalizer"],
      [{ pre_tokenizer: { type: "Whitespace" } }, "pre-tokenizer is Whitespace"],
      [{ added_tokens: [{ id: 9, content: "<x>", normalized: true }] }, "<x> has the rule"],
      [{ model: { ...model, unk_token: "[NONE]" } }, "unk_token is not in its vocabulary"],
      [{ model: { ...model, vocab: { a: -1 } } }, '"a" has the id -1'],
    ];
    for (const [changes, message] of cases) {
      await writeFile(join(copy, "tokenizer.json"), JSON.stringify({ ...json, ...changes }));
      await expect(loadTokenizer(copy)).rejects.toThrow(message);
    }
  });
});
