import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeEach, expect, test } from "vitest";

import { startAnnotating } from "../../test/annotating.ts";
import { describeDatabases } from "../../test/databases.ts";
import { UserError } from "../error.ts";
import { Annotations, Conflict, type Change } from "./annotations.ts";

const NOTHING = { label: "", notes: "", tags: [], rating: null, confidence: null };

const names = (prefix: string, count: number) =>
  Array.from({ length: count }, (_, i) => `${prefix}${i}`);

describeDatabases("annotations", (databases) => {
  let database: string;
  let annotations: Annotations;
  let runs = 0;
  const newRun = () => `gpt2_20260102_030405_${++runs}`;
  /** A run with one version of feature 7 per change. */
  const changed = async (...changes: Change[]): Promise<string> => {
    const run = newRun();
    for (const change of changes) await annotations.edit(run, 7, change, { author: "ada" });
    return run;
  };

  beforeEach(async () => {
    if (annotations !== undefined) return;
    database = await databases.fresh();
    annotations = await Annotations.open(database);
  });
  afterAll(() => annotations?.close());

  test("a feature nobody spoke of is at version 0 and empty", async () => {
    const run = newRun();
    const nobody = { author: null, updated: null };
    expect(await annotations.get(run, 0)).toEqual({
      run,
      latent: 0,
      version: 0,
      ...NOTHING,
      ...nobody,
    });
    expect(await annotations.all(run)).toEqual([]);
    expect(await annotations.history(run, 0)).toEqual([]);
  });

  test("an edit changes the fields it gives and says who made it and when", async () => {
    const run = newRun();
    const before = Date.now();
    const first = await annotations.edit(run, 7, { label: "dogs", rating: 4, confidence: 0.1 });
    expect(first).toMatchObject({ run, latent: 7, version: 1, author: "anonymous" });
    expect(Date.parse(first.updated!)).toBeGreaterThanOrEqual(before);
    expect(first.updated).toMatch(/^\d{4}-.*Z$/);
    const second = await annotations.edit(
      run,
      7,
      { notes: "barks", rating: null },
      { author: "ada" },
    );
    expect(second).toEqual({
      ...{ run, latent: 7, version: 2, author: "ada", updated: second.updated },
      ...{ label: "dogs", notes: "barks", tags: [], rating: null, confidence: 0.1 },
    });
    expect(await annotations.get(run, 7)).toEqual(second);
    expect(await annotations.get(run, 8)).toMatchObject({ version: 0 });
    expect(await annotations.get(newRun(), 7)).toMatchObject({ version: 0 });
  });

  test("an edit that changes nothing writes nothing", async () => {
    const run = await changed({ label: "dogs", tags: ["a", "b"] });
    const again = await annotations.edit(run, 7, { label: "dogs", tags: [" a", "b "] });
    expect(again).toMatchObject({ version: 1, author: "ada" });
    expect(await annotations.edit(run, 8, { label: "", tags: [] })).toMatchObject({ version: 0 });
    expect(await annotations.history(run, 7)).toHaveLength(1);
  });

  test("text comes back exactly as it was given, from another connection too", async () => {
    const text = " 👩‍👩‍👧 e\u0301 é \u202eabc\r\n\t'\"\\; drop table\u2028 漢字 \uffff ";
    const run = await changed({ label: text, notes: text });
    const other = await Annotations.open(database);
    expect(await other.get(run, 7)).toMatchObject({ label: text, notes: text });
    await other.close();
  });

  test("tags are trimmed, keep their order and are unique whatever their case", async () => {
    const run = await changed({ tags: [" zebra ", "Ärger", "ant", "ZEBRA", "a\u0308rger"] });
    expect((await annotations.get(run, 7)).tags).toEqual(["zebra", "Ärger", "ant"]);
  });

  test("what is just within the limits is taken, emoji counted as one character", async () => {
    const tags = Array.from({ length: 20 }, (_, i) => String(i).padStart(40, "x"));
    const content = {
      ...{ label: "🐕".repeat(200), notes: "n".repeat(10_000), tags, rating: 5, confidence: 1 },
    };
    const run = newRun();
    const saved = await annotations.edit(run, 2 ** 31 - 1, content, { author: "a".repeat(80) });
    expect(saved).toMatchObject(content);
    expect(await annotations.get(run, 2 ** 31 - 1)).toEqual(saved);
  });

  test.each<[string, Change, RegExp]>([
    ["a long label", { label: "x".repeat(201) }, /label may have 200 characters, this has 201/],
    ["long notes", { notes: "x".repeat(10_001) }, /notes may have 10000 characters/],
    ["a long tag", { tags: ["x".repeat(41)] }, /a tag may have 40/],
    ["an empty tag", { tags: ["a", " "] }, /a tag is empty/],
    ["21 tags", { tags: names("t", 21) }, /may have 20 tags/],
    ["NUL in a label", { label: "a\0b" }, /NUL/],
    ["NUL in a tag", { tags: ["a\0b"] }, /NUL/],
    ["half an emoji", { notes: "\ud83d" }, /surrogate/],
    ["rating 0", { rating: 0 }, /rating must be/],
    ["rating 2.5", { rating: 2.5 }, /rating must be/],
    ["confidence 1.1", { confidence: 1.1 }, /confidence must be/],
    ["confidence NaN", { confidence: NaN }, /confidence must be/],
  ])("%s is refused and nothing written", async (_, change, message) => {
    const run = await changed({ label: "dogs" });
    const edit = annotations.edit(run, 7, { notes: "n", ...change });
    await expect(edit).rejects.toThrow(message);
    await expect(edit).rejects.toThrow(UserError);
    expect(await annotations.get(run, 7)).toMatchObject({ version: 1, label: "dogs", notes: "" });
  });

  test("names of runs, features and authors that cannot be are refused", async () => {
    const edit = (run: string, latent: number, author = "ada") =>
      annotations.edit(run, latent, { label: "x" }, { author });
    for (const latent of [-1, 0.5, NaN, 2 ** 31])
      await expect(edit("run", latent)).rejects.toThrow(/integer from 0/);
    await expect(edit("", 1)).rejects.toThrow(/run is empty/);
    await expect(edit("r\0", 1)).rejects.toThrow(/NUL/);
    await expect(edit("run", 1, "x".repeat(81))).rejects.toThrow(/author's name may have 80/);
    expect(await edit(newRun(), 1, "  ")).toMatchObject({ author: "anonymous" });
  });

  test("changes to different fields of one version are merged, and tags as sets", async () => {
    const run = await changed({ label: "dogs", notes: "n", tags: ["a", "b", "c"] });
    const [hers, his] = [
      { label: "puppies", notes: "n", tags: ["b", "c", "hers"] },
      { label: "dogs", rating: 3, tags: ["a", "B", "c", "his"] },
    ];
    await annotations.edit(run, 7, hers, { author: "ada", basedOn: 1 });
    expect(await annotations.edit(run, 7, his, { author: "bob", basedOn: 1 })).toMatchObject({
      ...{ version: 3, author: "bob", label: "puppies", notes: "n", rating: 3 },
      tags: ["B", "c", "hers", "his"],
    });
  });

  test("a field changed by both sides is a conflict that writes nothing", async () => {
    const run = await changed({ label: "dogs" }, { label: "puppies", rating: 2, notes: "same" });
    const edit = annotations.edit(
      ...([run, 7, { label: "cats", rating: 1, notes: "same", confidence: 1 }] as const),
      { author: "bob", basedOn: 1 },
    );
    const conflict = (await edit.catch((error: unknown) => error)) as Conflict;
    expect(conflict).toBeInstanceOf(Conflict);
    expect(conflict).toBeInstanceOf(UserError);
    expect(conflict.fields).toEqual(["label", "rating"]);
    expect(conflict.current).toEqual(await annotations.get(run, 7));
    expect(conflict.current).toMatchObject({ version: 2, label: "puppies", confidence: null });
    expect(conflict.message).toMatch(/ada changed the label and rating of feature 7/);
  });

  test("two people who begin with the same feature conflict too", async () => {
    const run = await changed({ label: "dogs" });
    await expect(annotations.edit(run, 7, { label: "cats" }, { basedOn: 0 })).rejects.toThrow(
      Conflict,
    );
    await annotations.edit(run, 7, { label: "dogs" }, { basedOn: 0 });
    await annotations.edit(run, 7, { label: "cats" }, { basedOn: 1 });
    await expect(annotations.edit(run, 7, { rating: 1 }, { basedOn: 5 })).rejects.toThrow(
      /no version 5 to base a change on; the newest is 2/,
    );
  });

  test("tags merged to more than 20 are refused", async () => {
    const tags = names("t", 19);
    const run = await changed({ tags }, { tags: [...tags, "one"] });
    const edit = annotations.edit(run, 7, { tags: [...tags, "two"] }, { basedOn: 1 });
    await expect(edit).rejects.toThrow(/may have 20 tags, this one would have 21/);
  });

  test("undo and redo walk through the changes, and an edit goes on from where they are", async () => {
    const run = await changed({ label: "one" }, { label: "two" }, { label: "three", rating: 1 });
    const labels: string[] = [];
    const walk = async (steps: string) => {
      for (const step of steps)
        labels.push((await annotations[step === "u" ? "undo" : "redo"](run, 7)).label);
      return labels.splice(0).join(",");
    };
    expect(await walk("uu")).toBe("two,one");
    expect(await walk("rr")).toBe("two,three");
    await expect(annotations.redo(run, 7)).rejects.toThrow(/nothing to redo/);
    expect(await walk("uru")).toBe("two,three,two");
    expect(await walk("uu")).toBe("one,");
    await expect(annotations.undo(run, 7)).rejects.toThrow(/nothing to undo/);
    expect(await annotations.all(run)).toEqual([]);
    expect(await walk("rr")).toBe("one,two");
    await annotations.edit(run, 7, { label: "four" });
    await expect(annotations.redo(run, 7)).rejects.toThrow(/nothing to redo/);
    expect(await walk("uururr")).toBe("two,one,two,one,two,four");
    expect(await annotations.get(run, 7)).toMatchObject({ label: "four", rating: null });
  });

  test("undo and redo have nothing to do on a feature nobody spoke of", async () => {
    await expect(annotations.undo(newRun(), 7)).rejects.toThrow(/nothing to undo/);
    await expect(annotations.redo(newRun(), 7)).rejects.toThrow(/nothing to redo/);
  });

  test("undo of what one has not seen is a conflict", async () => {
    const run = await changed({ label: "one" }, { label: "two" });
    const undo = annotations.undo(run, 7, { basedOn: 1 });
    await expect(undo).rejects.toMatchObject({ name: "Conflict", fields: ["label"] });
    expect(await annotations.undo(run, 7, { basedOn: 2 })).toMatchObject({ version: 3 });
  });

  test("restore makes an earlier version the newest, and can be undone", async () => {
    const run = await changed({ label: "one" }, { label: "two" }, { tags: ["t"] });
    const restored = await annotations.restore(run, 7, 1, { author: "bob" });
    expect(restored).toMatchObject({ version: 4, label: "one", tags: [], author: "bob" });
    expect(await annotations.restore(run, 7, 1)).toMatchObject({ version: 4 });
    expect(await annotations.undo(run, 7)).toMatchObject({ version: 5, label: "two", tags: ["t"] });
    for (const version of [0, 6, 1.5])
      await expect(annotations.restore(run, 7, version)).rejects.toThrow(/it has 1 to 5/);
  });

  test("the history keeps every version, newest first, and why it came to be", async () => {
    const run = await changed({ label: "one" }, { label: "two", tags: ["t"], confidence: 0.5 });
    await annotations.undo(run, 7, { author: "bob" });
    await annotations.redo(run, 7);
    await annotations.restore(run, 7, 1);
    const history = await annotations.history(run, 7);
    const seen = history.map((r) => [r.version, r.action, r.position, r.label, r.author].join(" "));
    expect(seen).toEqual([
      "5 restore 5 one anonymous",
      "4 redo 2 two anonymous",
      "3 undo 1 one bob",
      "2 edit 2 two ada",
      "1 edit 1 one ada",
    ]);
    expect(history[1]).toMatchObject({ run, latent: 7, tags: ["t"], confidence: 0.5, notes: "" });
  });

  test("all gives the newest version of each feature by number, without the empty ones", async () => {
    const run = await changed({ label: "one" }, { label: "two" });
    await annotations.edit(run, 100, { rating: 1 });
    await annotations.edit(run, 20, { notes: "gone" });
    await annotations.edit(run, 20, { notes: "" });
    const all = await annotations.all(run);
    expect(all.map(({ latent }) => latent)).toEqual([7, 100]);
    expect(all[0]).toEqual(await annotations.get(run, 7));
  });

  test("tags in use are counted, the one used last first", async () => {
    const run = await changed({ tags: ["Animal", "dropped"] }, { tags: ["Animal"] });
    await sleep(2);
    await annotations.edit(run, 8, { tags: ["plant"] });
    await sleep(2);
    await annotations.edit(run, 9, { tags: ["food", "animal"] });
    const tags = await annotations.tags(run);
    expect(tags.map(({ tag, count }) => `${tag} ${count}`)).toEqual([
      "food 1",
      "animal 2",
      "plant 1",
    ]);
    expect(tags[1].used).toBe((await annotations.get(run, 9)).updated);
  });

  test("edits from one process at the same instant are all kept", async () => {
    const run = newRun();
    const others = await Promise.all([1, 2].map(() => Annotations.open(database)));
    const stores = [annotations, ...others];
    const edit = (i: number, latent: number) =>
      stores[i % 3].edit(run, latent, i % 2 ? { label: `l${i}` } : { notes: `n${i}` });
    const edits = Array.from({ length: 30 }, (_, i) => i);
    const began = performance.now();
    for (const i of edits) await edit(i, 8);
    const started = performance.now();
    await Promise.all(edits.map((i) => edit(i, 7)));
    // A connection that waits without letting the one it waits for go on waits for 5 s.
    const oneByOne = started - began;
    expect(performance.now() - started).toBeLessThan(oneByOne + 4500);
    const versions = (await annotations.history(run, 7)).map(({ version }) => version);
    expect(versions).toEqual(Array.from({ length: 30 }, (_, i) => 30 - i));
    await Promise.all(others.map((other) => other.close()));
  });

  test("two processes that edit one feature at once lose nothing", async () => {
    const own = await databases.fresh();
    const run = newRun();
    const task = { database: own, run, latent: 7, count: 60 };
    const [ada, bob] = [
      startAnnotating({
        ...task,
        author: "ada",
        beside: "bob",
        field: "label",
        tags: names("a", 10),
      }),
      startAnnotating({
        ...task,
        author: "bob",
        beside: "ada",
        field: "notes",
        tags: names("b", 10),
      }),
    ];
    await Promise.all([ada.ready, bob.ready]);
    ada.go();
    bob.go();
    expect(await Promise.all([ada.ended, bob.ended])).toEqual([0, 0]);

    const store = await Annotations.open(own);
    const history = (await store.history(run, 7)).reverse();
    expect(history.map(({ version }) => version)).toEqual(
      Array.from({ length: 120 }, (_, i) => i + 1),
    );
    for (const { version, said } of ada.acknowledged)
      expect(history[version - 1]).toMatchObject({ label: said, author: "ada" });
    for (const { version, said } of bob.acknowledged)
      expect(history[version - 1]).toMatchObject({ notes: said, author: "bob" });
    const last = await store.get(run, 7);
    expect(last).toMatchObject({ label: "ada 59", notes: "bob 59" });
    expect([...last.tags].sort()).toEqual([...names("a", 10), ...names("b", 10)].sort());
    await store.close();
  });

  test("every edit acknowledged before a kill -9 is there afterwards", async () => {
    const own = await databases.fresh();
    const run = newRun();
    const task = { database: own, run, latent: 7, count: 1e6, tags: [] };
    const child = startAnnotating({ ...task, author: "ada", field: "label" });
    await child.ready;
    child.go();
    while (child.acknowledged.length < 50) await sleep(5);
    child.kill();
    expect(await child.ended).toBe("SIGKILL");

    const store = await Annotations.open(own);
    const history = (await store.history(run, 7)).reverse();
    const lines = history.map(({ version, label }) => ({ version, said: label }));
    expect(lines.slice(0, child.acknowledged.length)).toEqual(child.acknowledged);
    const after = await store.edit(run, 7, { label: "after" });
    expect(after.version).toBe(history.length + 1);
    await store.close();
  });
});
