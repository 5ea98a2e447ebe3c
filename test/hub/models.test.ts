/** Models from the hub: named, planned, fetched, loaded, and loaded again without network. */
import { createServer } from "node:http";
import {
  cpSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";

import { reportDownloads } from "../../src/model/download-report.ts";
import { parseRepoName, placeInSnapshot } from "../../src/model/hub-cache.ts";
import { fetchModel, modelFiles, openRepo } from "../../src/model/hub.ts";
import { loadModel } from "../../src/model/model.ts";
import { commitOf, filesOf, hashOf, type StoredRepo, useHub } from "./hub-server.ts";

const fixture = (name: string) =>
  fileURLToPath(new URL(`../fixtures/gpt2-tiny/${name}`, import.meta.url));
const commit = commitOf("first");
const place = useHub();
const fast = { retryMs: 1 };

/** The small model on the hub as owner/tiny, with files that Lens does not read. */
function offer(variant = "f32", more: Record<string, Buffer> = {}): StoredRepo {
  const { "expected.safetensors": _, ...files } = filesOf(fixture(variant));
  const other = Buffer.alloc(20_000, 1);
  const repo = {
    commit,
    files: { ...files, "pytorch_model.bin": other, "onnx/model.safetensors": other, "README.md": Buffer.from("# Tiny"), ...more }, // prettier-ignore
  };
  place.hub.repos.set("models/owner/tiny", repo);
  return repo;
}

async function refusal(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "nothing was refused",
    (error: Error) => `${error.name}: ${error.message}`,
  );
}

describe("a model of the hub", () => {
  test("is fetched, loads, and loads again without network", async () => {
    offer();
    const model = await loadModel("owner/tiny");
    expect(model.info.source).toBe("owner/tiny");
    const local = await loadModel(fixture("f32"));
    expect(await model.weightsHash()).toBe(await local.weightsHash());
    const tokens = Int32Array.of(5, 6, 7);
    const forward = { tokens, batch: 1, length: 3, logits: "last" } as const;
    expect((await model.forward(forward)).logits).toEqual((await local.forward(forward)).logits);
    await model.close();
    await local.close();

    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const before = place.hub.asked.length;
    const again = await loadModel("owner/tiny");
    expect(again.info.parameters).toBe(model.info.parameters);
    expect(place.hub.asked).toHaveLength(before);
  });

  test("lies in the cache as the Python library lays it out", async () => {
    const { files } = offer();
    const folder = await fetchModel("owner/tiny");
    const root = join(place.cache, "hub", "models--owner--tiny");
    expect(folder).toBe(join(root, "snapshots", commit));
    expect(readFileSync(join(root, "refs", "main"), "utf8")).toBe(commit);
    const hash = hashOf(files["model.safetensors"]);
    expect(hash).toHaveLength(64);
    expect(readlinkSync(join(folder, "model.safetensors"))).toBe(join("..", "..", "blobs", hash));
    expect(readFileSync(join(root, "blobs", hash))).toEqual(files["model.safetensors"]);
    expect(lstatSync(join(folder, "config.json")).isSymbolicLink()).toBe(true);
    expect(readdirSync(join(root, "blobs")).filter((name) => name.includes("."))).toEqual([]);
  });

  test("has a plan with bytes before anything is fetched", async () => {
    const { files } = offer();
    const repo = await openRepo("model", "owner/tiny");
    const paths = repo.files.map((file) => file.path);
    expect(paths.sort()).toEqual(Object.keys(files).sort());
    const wanted = modelFiles(paths, "owner/tiny");
    expect(wanted.sort()).toEqual([
      ...["config.json", "generation_config.json", "model.safetensors"],
      ...["tokenizer-cases.json", "tokenizer.json", "tokenizer_config.json"],
    ]);
    const bytes = wanted.reduce((sum, path) => sum + files[path].length, 0);
    expect(await repo.plan(wanted)).toMatchObject({ bytes });
    expect(place.hub.fetched()).toEqual([]);
    await repo.fetch(wanted);
    expect(await repo.plan(wanted)).toEqual({ bytes: 0, missing: [] });
  });

  test("in shards has the hash it has in a folder, though blobs are named otherwise", async () => {
    offer("f16-shards");
    const model = await loadModel("owner/tiny");
    const local = await loadModel(fixture("f16-shards"));
    expect(await model.weightsHash()).toBe(await local.weightsHash());
  });

  test("is fetched at a revision, which stays apart from others", async () => {
    const repo = offer();
    const second = commitOf("second");
    Object.assign(repo, { refs: { "v1.0": second, "refs/pr/1": second } });
    expect(await fetchModel("owner/tiny@v1.0")).toMatch(new RegExp(`${second}$`));
    expect(await fetchModel("owner/tiny")).toMatch(new RegExp(`${commit}$`));
    expect(await fetchModel("owner/tiny@refs/pr/1")).toMatch(new RegExp(`${second}$`));
    const count = place.hub.fetched().length;
    await fetchModel(`owner/tiny@${commit}`);
    expect(place.hub.fetched()).toHaveLength(count);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    for (const name of ["v1.0", "refs/pr/1", second])
      expect(await fetchModel(`owner/tiny@${name}`)).toMatch(new RegExp(`${second}$`));
  });

  test("fetches what has changed and shares what has not", async () => {
    const repo = offer();
    await fetchModel("owner/tiny");
    const config = JSON.parse(repo.files["config.json"].toString()) as object;
    repo.files["config.json"] = Buffer.from(JSON.stringify({ ...config, changed: 1 }));
    repo.commit = commitOf("second");
    const before = place.hub.fetched().length;
    const folder = await fetchModel("owner/tiny");
    const fetched = place.hub.fetched().slice(before);
    expect(fetched.map(({ path }) => path.split("/").at(-1))).toEqual(["config.json"]);
    expect(readFileSync(join(folder, "config.json"))).toEqual(repo.files["config.json"]);
    expect(readFileSync(join(folder, "model.safetensors"))).toEqual(repo.files["model.safetensors"]); // prettier-ignore
  });

  test("is a folder's where there is a folder of that name", async () => {
    offer();
    const here = process.cwd();
    cpSync(fixture("f32"), join(place.cache, "owner", "tiny"), { recursive: true });
    process.chdir(place.cache);
    try {
      const model = await loadModel("owner/tiny");
      expect(model.info.folder).toBe(join(process.cwd(), "owner", "tiny"));
    } finally {
      process.chdir(here);
    }
    expect(place.hub.asked).toEqual([]);
  });

  test("is told of while it is fetched", async () => {
    offer();
    const told: unknown[] = [];
    let last = 0;
    reportDownloads({
      begin: (label, total, done) => {
        told.push([label, total, done]);
        return { update: (now) => (last = now), end: () => told.push("end"), stop: () => told.push("stop") }; // prettier-ignore
      },
      note: (text) => told.push(text),
    });
    const seen: number[] = [];
    const { bytes } = await openRepo("model", "owner/tiny").then(
      async (repo) =>
      repo.plan(modelFiles(repo.files.map(({ path }) => path), "owner/tiny")), // prettier-ignore
    );
    await fetchModel("owner/tiny", { onProgress: ({ done }) => seen.push(done) });
    reportDownloads();
    expect(told).toEqual([["owner/tiny", bytes, 0], "end"]);
    expect(last).toBe(bytes);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });
});

describe("without network", () => {
  test("what is in the cache is used, with a note", async () => {
    offer();
    await fetchModel("owner/tiny");
    await place.hub.stop();
    const notes: string[] = [];
    reportDownloads({ begin: () => ({ update() {}, end() {}, stop() {} }), note: (text) => notes.push(text) }); // prettier-ignore
    expect(await fetchModel("owner/tiny")).toContain(commit);
    reportDownloads();
    expect(notes.join()).toMatch(/owner\/tiny: the copy in the cache is used.*ECONNREFUSED/);
  });

  test("what is not in the cache is refused in one message", async () => {
    await place.hub.stop();
    expect(await refusal(fetchModel("owner/tiny", fast))).toMatch(
      /^UserError: model owner\/tiny is neither a folder here nor in the cache .*ECONNREFUSED/,
    );
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await refusal(loadModel("owner/tiny"))).toMatch(/not in the cache.*HF_HUB_OFFLINE/);
  });

  test("a model of which the cache has a part names what is missing", async () => {
    offer("f16-shards");
    const folder = await fetchModel("owner/tiny");
    rmSync(join(folder, "model-00002-of-00002.safetensors"));
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await refusal(fetchModel("owner/tiny"))).toMatch(
      /model-00002-of-00002\.safetensors of model owner\/tiny is not in the cache/,
    );
  });

  test("a model of which the cache has no weights says so", async () => {
    offer();
    place.hub.fault = (file) => (file === "model.safetensors" ? { status: 500 } : undefined);
    expect(await refusal(fetchModel(`owner/tiny@${commit}`, fast))).toContain("answered 500");
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await refusal(fetchModel(`owner/tiny@${commit}`))).toMatch(
      /^UserError: model\.safetensors of model .* is not in the cache .*HF_HUB_OFFLINE/,
    );
  });

  test("a hub that is out of order counts as none", async () => {
    offer();
    await fetchModel("owner/tiny");
    const broken = createServer((_, response) => response.writeHead(503).end());
    await new Promise<void>((done) => broken.listen(0, "127.0.0.1", done));
    const { port } = broken.address() as { port: number };
    vi.stubEnv("HF_ENDPOINT", `http://127.0.0.1:${port}`);
    expect(await fetchModel("owner/tiny", fast)).toContain(commit);
    expect(await refusal(fetchModel("owner/other", fast))).toContain("answered 503");
    broken.close();
  });

  test("download: false never asks", async () => {
    offer();
    expect(await refusal(loadModel("owner/tiny", { download: false }))).toContain(
      "not in the cache",
    );
    expect(place.hub.asked).toEqual([]);
  });
});

describe("refused with what to do", () => {
  test("a model that is not there, with the nearest that is", async () => {
    offer();
    expect(await refusal(fetchModel("owner/tyny"))).toMatch(
      /UserError: there is no model owner\/tyny on 127.*private.*HF_TOKEN.*Did you mean owner\/tiny\?/,
    );
  });

  test("a revision that is not there, with those that are", async () => {
    Object.assign(offer(), { refs: { "v1.0": commit } });
    expect(await refusal(fetchModel("owner/tiny@v1.1"))).toMatch(/no revision v1\.1.*v1\.0\?/);
    expect(await refusal(fetchModel("owner/tiny@other"))).toMatch(/It has main, v1\.0\./);
  });

  test("a gated model, with and without a token", async () => {
    Object.assign(offer(), { isGated: true, tokens: ["hf_good"] });
    const page = `${place.hub.endpoint}/owner/tiny`;
    const stranger = await refusal(fetchModel("owner/tiny"));
    expect(stranger).toContain(page);
    expect(stranger).toContain("HF_TOKEN");
    vi.stubEnv("HF_TOKEN", "hf_other");
    expect(await refusal(fetchModel("owner/tiny"))).toMatch(/with the account that the token/);
    vi.stubEnv("HF_TOKEN", "hf_good");
    expect(await fetchModel("owner/tiny")).toContain(commit);
  });

  test("a token that is no longer good", async () => {
    offer();
    vi.stubEnv("HF_TOKEN", "hf_expired");
    expect(await refusal(fetchModel("owner/tiny"))).toContain("does not accept the token");
  });

  test("weights that are no safetensors, before anything is fetched", async () => {
    const { files } = offer();
    delete files["model.safetensors"];
    expect(await refusal(fetchModel("owner/tiny"))).toMatch(
      /no weights as model\.safetensors; it has pytorch_model\.bin/,
    );
    expect(place.hub.fetched()).toEqual([]);
  });

  test.each([
    "../../../evil.json",
    "/etc/evil",
    "a\\..\\..\\b",
    "C:/evil",
    "a/./b",
    "a//b",
    "nul\0",
  ])("a repository that lists %j", async (path) => {
    offer("f32", { [path]: Buffer.from("evil") });
    expect(await refusal(fetchModel("owner/tiny"))).toMatch(/outside the cache/);
    expect(place.hub.fetched()).toEqual([]);
  });

  test("an address that is no hub", async () => {
    vi.stubEnv("HF_ENDPOINT", "no address");
    expect(await refusal(fetchModel("owner/tiny"))).toContain("HF_ENDPOINT must be");
  });
});

describe("a redirect", () => {
  test("within the hub is followed with the token: of models that moved to an owner", async () => {
    offer();
    place.hub.moved.set("tiny", "owner/tiny");
    vi.stubEnv("HF_TOKEN", "hf_mine");
    const folder = await fetchModel("tiny");
    expect(folder).toContain(join("models--tiny", "snapshots", commit));
    const tokens = place.hub.asked.map(({ at, token }) => [at, token].join());
    expect(new Set(tokens)).toEqual(new Set(["hub,Bearer hf_mine", "cdn,"]));
    await (await loadModel("tiny")).close();
  });

  test("to another host loses the token, also when it lists files", async () => {
    offer();
    vi.stubEnv("HF_TOKEN", "hf_mine");
    place.hub.moved.set("owner/tiny", `${place.hub.cdn}/elsewhere`);
    await refusal(fetchModel("owner/tiny", fast));
    expect(place.hub.asked.some(({ at }) => at === "cdn")).toBe(true);
    for (const { at, token } of place.hub.asked) if (at === "cdn") expect(token).toBeUndefined();
  });

  test("without end is refused", async () => {
    place.hub.moved.set("owner/tiny", "owner/tiny");
    expect(await refusal(fetchModel("owner/tiny", fast))).toMatch(/redirects more than 10 times/);
  });
});

describe("the token", () => {
  test("is read from the environment or the file, and sent to the hub alone", async () => {
    offer();
    mkdirSync(place.cache, { recursive: true });
    writeFileSync(join(place.cache, "token"), "hf_file\n");
    await fetchModel("owner/tiny");
    const tokens = (at: string) =>
      new Set(place.hub.asked.filter((one) => one.at === at).map((one) => one.token));
    expect(tokens("hub")).toEqual(new Set(["Bearer hf_file"]));
    expect(tokens("cdn")).toEqual(new Set([undefined]));
    expect(place.hub.asked.some(({ at }) => at === "cdn")).toBe(true);
    vi.stubEnv("HF_TOKEN", "hf_variable");
    await openRepo("model", "owner/tiny");
    expect(place.hub.asked.at(-1)!.token).toBe("Bearer hf_variable");
  });
});

test("names of the hub are told from paths", () => {
  const names = ["gpt2", "owner/name", "a/b@v1.0", "a.b/c_d-e@refs/pr/1"];
  for (const name of names) expect(parseRepoName("model", name)).toBeDefined();
  expect(parseRepoName("model", "a/b@x")).toEqual({ type: "model", id: "a/b", revision: "x" });
  const others = ["./a", "/a/b", "a/b/c", "..", "a/..", "a//b", "", "a b", "a/b@", "a/b@../c", "-a", "builtin:tiny", "C:\\a", "a/b@c//d", "a--b/c"]; // prettier-ignore
  for (const other of others) expect([other, parseRepoName("model", other)]).toEqual([other, undefined]); // prettier-ignore
});

test("where links are refused, a snapshot holds the file itself", async () => {
  mkdirSync(place.cache, { recursive: true });
  const blob = join(place.cache, "blob");
  writeFileSync(blob, "content");
  const path = join(place.cache, "snapshots", "c", "deep", "file");
  await placeInSnapshot(blob, path, async () => {
    throw Object.assign(new Error("no links"), { code: "EPERM" });
  });
  expect(lstatSync(path).isSymbolicLink()).toBe(false);
  expect(readFileSync(path, "utf8")).toBe("content");
});
