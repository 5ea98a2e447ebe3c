import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeEach, expect, test } from "vitest";

import { describeDatabases } from "../../test/databases.ts";
import { UserError } from "../error.ts";
import { Annotations } from "./annotations.ts";

describeDatabases("groups and exports", (databases) => {
  let annotations: Annotations;
  let runs = 0;
  const newRun = () => `run_${++runs}`;

  beforeEach(async () => {
    annotations ??= await Annotations.open(await databases.fresh());
  });
  afterAll(() => annotations?.close());

  test("a group holds features, each once, ascending", async () => {
    const run = newRun();
    const made = await annotations.createGroup(run, " Animals ", "that live", "ada");
    expect(made).toMatchObject({ run, name: "Animals", description: "that live", author: "ada" });
    expect(made.id).toMatch(/^[0-9a-f]{8}-/);
    expect(made.latents).toEqual([]);
    await sleep(2);
    await annotations.addToGroup(run, made.id, [30, 4, 30]);
    const added = await annotations.addToGroup(run, made.id, [4, 100]);
    expect(added.latents).toEqual([4, 30, 100]);
    expect(added.updated > added.created).toBe(true);
    const removed = await annotations.removeFromGroup(run, made.id, [30, 31]);
    expect(removed.latents).toEqual([4, 100]);
    expect(await annotations.groups(run)).toEqual([removed]);
    expect(await annotations.groups(newRun())).toEqual([]);
  });

  test("a group can hold more features than one statement has parameters", async () => {
    const run = newRun();
    const { id } = await annotations.createGroup(run, "many");
    const latents = Array.from({ length: 40_000 }, (_, i) => i);
    expect((await annotations.addToGroup(run, id, latents)).latents).toEqual(latents);
    const [, ...rest] = latents;
    expect((await annotations.removeFromGroup(run, id, rest)).latents).toEqual([0]);
  });

  test("no two groups of a run have the same name, whatever the case", async () => {
    const run = newRun();
    const { id } = await annotations.createGroup(run, "Ähnlich");
    await expect(annotations.createGroup(run, " ÄHNLICH ")).rejects.toThrow(
      /already has a group named Ähnlich/,
    );
    const other = await annotations.createGroup(run, "b");
    await expect(annotations.updateGroup(run, other.id, { name: "ähnlich" })).rejects.toThrow(
      UserError,
    );
    expect(await annotations.updateGroup(run, id, { name: "ähnlich" })).toMatchObject({
      name: "ähnlich",
    });
    const elsewhere = await annotations.createGroup(newRun(), "ähnlich");
    expect(elsewhere.name).toBe("ähnlich");
    const names = (await annotations.groups(run)).map(({ name }) => name);
    expect(names).toEqual(["b", "ähnlich"]);
  });

  test("a group's name and description change on their own", async () => {
    const run = newRun();
    const { id } = await annotations.createGroup(run, "a", "first");
    await annotations.addToGroup(run, id, [1]);
    await annotations.updateGroup(run, id, { description: "second" });
    expect(await annotations.updateGroup(run, id, { name: "b" })).toMatchObject({
      ...{ id, name: "b", description: "second", latents: [1] },
    });
    expect(await annotations.groups(run)).toMatchObject([{ name: "b", description: "second" }]);
  });

  test("a deleted group is gone, and so is one of another run", async () => {
    const run = newRun();
    const { id } = await annotations.createGroup(run, "a");
    await annotations.addToGroup(run, id, [1]);
    await expect(annotations.deleteGroup(newRun(), id)).rejects.toThrow(/has no group/);
    await expect(annotations.addToGroup(newRun(), id, [2])).rejects.toThrow(/has no group/);
    await annotations.deleteGroup(run, id);
    expect(await annotations.groups(run)).toEqual([]);
    const actions = [
      () => annotations.addToGroup(run, id, [1]),
      () => annotations.removeFromGroup(run, id, [1]),
      () => annotations.updateGroup(run, id, { name: "b" }),
      () => annotations.deleteGroup(run, id),
    ];
    for (const action of actions) await expect(action()).rejects.toThrow(/may have been deleted/);
  });

  test("names and descriptions over the limits, and features that cannot be, are refused", async () => {
    const run = newRun();
    const { id } = await annotations.createGroup(run, "a");
    await expect(annotations.createGroup(run, "x".repeat(81))).rejects.toThrow(/may have 80/);
    await expect(annotations.createGroup(run, "  ")).rejects.toThrow(/needs a name/);
    await expect(annotations.createGroup(run, "b\0")).rejects.toThrow(/NUL/);
    await expect(annotations.createGroup(run, "b", "x".repeat(10_001))).rejects.toThrow(/10000/);
    await expect(annotations.addToGroup(run, id, [1, -1])).rejects.toThrow(/integer from 0/);
    expect(await annotations.groups(run)).toMatchObject([{ name: "a", latents: [] }]);
  });

  test("deleting a run deletes all of it and nothing else", async () => {
    const [run, other] = [newRun(), newRun()];
    for (const r of [run, other]) {
      await annotations.edit(r, 1, { label: "a" });
      await annotations.edit(r, 1, { label: "b" });
      const { id } = await annotations.createGroup(r, "g");
      await annotations.addToGroup(r, id, [1]);
    }
    await annotations.deleteRun(run);
    expect(await annotations.exportRun(run, { history: true })).toEqual({
      ...{ run, annotations: [], groups: [], history: [] },
    });
    expect(await annotations.get(run, 1)).toMatchObject({ version: 0 });
    expect(await annotations.history(other, 1)).toHaveLength(2);
    expect(await annotations.groups(other)).toMatchObject([{ name: "g", latents: [1] }]);
    await annotations.createGroup(run, "g");
  });

  test("an export taken over by another run says the same there", async () => {
    const [run, copy] = [newRun(), newRun()];
    const content = { label: "dogs 🐕", notes: "n", tags: ["b", "a"], rating: 2, confidence: 0.25 };
    await annotations.edit(run, 3, content, { author: "ada" });
    await annotations.edit(run, 9, { tags: ["x"] }, { author: "bob" });
    await annotations.edit(run, 10, { label: "gone" });
    await annotations.undo(run, 10);
    const { id } = await annotations.createGroup(run, "g", "of all", "ada");
    await annotations.addToGroup(run, id, [9, 50]);
    const exported = await annotations.exportRun(run, { history: true });
    expect(exported.history!.map(({ latent, version }) => [latent, version])).toEqual([
      ...[
        [10, 2],
        [10, 1],
        [9, 1],
        [3, 1],
      ],
    ]);
    expect(await annotations.exportRun(run)).not.toHaveProperty("history");

    const data: unknown = JSON.parse(JSON.stringify(exported));
    const counts = await annotations.importRun(copy, data);
    expect(counts).toEqual({ annotations: 2, unchanged: 0, groups: 1, members: 2 });
    const said = await annotations.all(copy);
    expect(said).toMatchObject([
      { run: copy, latent: 3, version: 1, author: "ada", ...content },
      { run: copy, latent: 9, version: 1, author: "bob", tags: ["x"] },
    ]);
    expect(await annotations.groups(copy)).toMatchObject([
      { run: copy, name: "g", description: "of all", author: "ada", latents: [9, 50] },
    ]);
    expect((await annotations.history(copy, 3))[0].action).toBe("import");

    expect(await annotations.importRun(copy, data, { author: "eve" })).toEqual({
      ...{ annotations: 0, unchanged: 2, groups: 0, members: 0 },
    });
    expect(await annotations.all(copy)).toEqual(said);
  });

  test("an import adds to what is there, and can be undone", async () => {
    const run = newRun();
    await annotations.edit(run, 1, { label: "mine", notes: "kept", tags: ["A", "b"] });
    const { id } = await annotations.createGroup(run, "G");
    await annotations.addToGroup(run, id, [1]);
    const counts = await annotations.importRun(
      run,
      {
        annotations: [
          { latent: 1, label: "theirs", tags: ["c", "a"], confidence: 0 },
          { latent: 1, rating: 3 },
        ],
        groups: [{ name: "g", description: "theirs", latents: [1, 2] }],
      },
      { author: "eve" },
    );
    expect(counts).toEqual({ annotations: 2, unchanged: 0, groups: 0, members: 1 });
    const merged = { label: "theirs", notes: "kept", tags: ["A", "b", "c"], confidence: 0 };
    expect(await annotations.get(run, 1)).toMatchObject({
      ...{ ...merged, version: 3, rating: 3, author: "eve" },
    });
    expect(await annotations.groups(run)).toMatchObject([
      { id, name: "G", description: "theirs", latents: [1, 2] },
    ]);
    await annotations.undo(run, 1);
    expect(await annotations.undo(run, 1)).toMatchObject({ label: "mine", tags: ["A", "b"] });
  });

  test("more is imported than one statement has parameters", async () => {
    const run = newRun();
    const said = Array.from({ length: 3000 }, (_, latent) => ({ latent, label: `f${latent}` }));
    const counts = await annotations.importRun(run, { annotations: said });
    expect(counts.annotations).toBe(3000);
    expect(await annotations.all(run)).toMatchObject(said);
  });

  test.each([
    ["no object", "text", /no export of annotations/],
    ["no annotations", { groups: [] }, /no export of annotations: .* at annotations/],
    [
      "a label of the wrong kind",
      { annotations: [{ latent: 1, label: 5 }] },
      /annotations\.0\.label/,
    ],
    [
      "a later one over a limit",
      { annotations: [{ latent: 1 }, { latent: 2, label: "x".repeat(201) }] },
      /at annotations\.1, the label may have 200/,
    ],
    [
      "a negative feature",
      { annotations: [{ latent: -2 }] },
      /at annotations\.0, .*integer from 0/,
    ],
    [
      "NUL in a group",
      { annotations: [{ latent: 1, label: "a" }], groups: [{ name: "a\0", latents: [] }] },
      /NUL/,
    ],
    [
      "too many tags together",
      { annotations: [{ latent: 5, tags: Array.from({ length: 20 }, (_, i) => `${i}`) }] },
      /feature 5 with the imported ones would have 21/,
    ],
  ])("an import with %s is refused as a whole", async (_, data, message) => {
    const run = newRun();
    await annotations.edit(run, 5, { tags: ["there"] });
    const before = await annotations.exportRun(run);
    const taken = annotations.importRun(run, data);
    await expect(taken).rejects.toThrow(message);
    await expect(taken).rejects.toThrow(UserError);
    expect(await annotations.exportRun(run)).toEqual(before);
  });
});
