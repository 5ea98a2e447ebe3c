/** What becomes of a download when the connection, the server, the disk or the process fails. */
import { createHash } from "node:crypto";
import {
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";

import { fetchModel, openRepo } from "../../src/model/hub.ts";
import { Rng } from "../../src/rng.ts";
import { startLens } from "../command.ts";
import { commitOf, filesOf, hashOf, type StoredRepo, useHub } from "./hub-server.ts";

const place = useHub();
const commit = commitOf("only");
const fast = { retryMs: 1 };
const LARGE = "data/large.bin";
const SMALL = "data/small one.txt";

/** Bytes that no two places share. */
function made(length: number, seed: string): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; i * 32 < length; i++)
    parts.push(createHash("sha256").update(`${seed}${i}`).digest());
  return Buffer.concat(parts).subarray(0, length);
}

function offer(size = 300_000): StoredRepo {
  const repo = {
    commit,
    files: { [LARGE]: made(size, "large"), [SMALL]: Buffer.from("a few words\n") },
  };
  place.hub.repos.set("datasets/owner/texts", repo);
  return repo;
}

async function fetched(paths = [LARGE, SMALL], options = {}): Promise<Buffer[]> {
  const repo = await openRepo("dataset", "owner/texts", { ...fast, ...options });
  return (await repo.fetch(paths)).map((path) => readFileSync(path));
}

async function refusal(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "nothing was refused",
    (error: Error) => `${error.name}: ${error.message}`,
  );
}

const blobs = () => join(place.cache, "hub", "datasets--owner--texts", "blobs");
const partialOf = (bytes: Buffer) => join(blobs(), `${hashOf(bytes)}.lens.incomplete`);
const ranges = () => place.hub.asked.filter(({ at }) => at === "cdn").map(({ range }) => range);

/** The server's `nth` answer of a file meets this fault, and those before and after none. */
function failOnce(fault: object, which = 0, name = LARGE) {
  let nth = 0;
  place.hub.fault = (file) => (file === name && nth++ === which ? fault : undefined);
}

describe("a data set's files", () => {
  test("are listed and fetched one by one, and then come from the cache", async () => {
    const { files } = offer();
    const repo = await openRepo("dataset", "owner/texts");
    expect(repo.files.map(({ path, size }) => [path, size])).toEqual(
      Object.entries(files).map(([path, bytes]) => [path, bytes.length]),
    );
    const [local] = await repo.fetch([SMALL]);
    expect(readFileSync(local)).toEqual(files[SMALL]);
    expect(place.hub.fetched()).toHaveLength(1);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const cached = await openRepo("dataset", "owner/texts");
    expect(cached.files).toEqual(repo.files);
    expect(await cached.plan([SMALL, LARGE])).toMatchObject({ bytes: files[LARGE].length });
    expect(await cached.fetch([SMALL])).toEqual([local]);
    expect(await refusal(cached.fetch([LARGE]))).toMatch(
      new RegExp(`large\\.bin of dataset .* not in the cache .*hf download owner/texts ${LARGE} --repo-type dataset --revision ${commit}`), // prettier-ignore
    );
  });

  test("that are not there are refused with the nearest", async () => {
    offer();
    expect(await refusal(fetched(["data/smal one.txt"]))).toMatch(
      /no file data\/smal one\.txt\. Did you mean data\/small one\.txt\?/,
    );
  });
});

describe("a connection that is cut", () => {
  test.each([1, 2, 3, 4, 5])(
    "anywhere and often ends in the same bytes (seed %d)",
    async (seed) => {
      const { files } = offer();
      const rng = new Rng(seed);
      let cuts = 0;
      place.hub.fault = (file) =>
        file === LARGE && cuts++ < 8 ? { cutAfter: Math.floor(rng.uniform() * 60_000) } : undefined;
      expect(await fetched()).toEqual(Object.values(files));
      const starts = ranges().map((range) => Number(/\d+/.exec(range ?? "0")![0]));
      expect(starts.length).toBeGreaterThan(5);
      expect(starts).toEqual([...starts].sort((a, b) => a - b));
      expect(existsSync(partialOf(files[LARGE]))).toBe(false);
    },
  );

  test("for good keeps what arrived, and the next attempt goes on from there", async () => {
    const { files } = offer();
    place.hub.fault = (file, { range }) =>
      file === LARGE ? (range ? { status: 503 } : { cutAfter: 100_000 }) : undefined;
    expect(await refusal(fetched())).toMatch(/large\.bin .* bytes that arrived are kept/);
    const kept = statSync(partialOf(files[LARGE])).size;
    expect(kept).toBeGreaterThan(0);
    place.hub.fault = () => undefined;
    place.hub.asked.length = 0;
    expect(await fetched()).toEqual(Object.values(files));
    expect(ranges()).toEqual([`bytes=${kept}-`]);
  });

  test("without a word, in an answer of unknown length, is noticed", async () => {
    const { files } = offer();
    failOnce({ cutAfter: 50_000, isChunked: true });
    expect(await fetched()).toEqual(Object.values(files));
  });

  test("to a server that cannot continue starts the file anew", async () => {
    const { files } = offer();
    place.hub.fault = (_, { range }) => (range ? { ignoresRange: true } : { cutAfter: 90_000 });
    expect(await fetched([LARGE])).toEqual([files[LARGE]]);
  });

  test("by silence is given up and taken up again", async () => {
    const { files } = offer();
    vi.stubEnv("HF_HUB_DOWNLOAD_TIMEOUT", "0.3");
    failOnce({ pauseMs: 1_000 });
    expect(await fetched([LARGE])).toEqual([files[LARGE]]);
    expect(ranges().length).toBeGreaterThan(1);
  });

  test("by a busy server is tried again", async () => {
    const { files } = offer();
    failOnce({ status: 429, headers: { "retry-after": "0" } });
    expect(await fetched([LARGE])).toEqual([files[LARGE]]);
  });
});

describe("what is wrong with a file is found and named", () => {
  test("another length than listed", async () => {
    const { files } = offer();
    for (const length of [200_000, 400_000]) {
      place.hub.fault = (file) => (file === LARGE ? { bytes: made(length, "large") } : undefined);
      expect(await refusal(fetched())).toMatch(
        new RegExp(
          `UserError: ${LARGE} of owner/texts as it is sent has ${length} bytes, not 300000`,
        ),
      );
    }
    place.hub.fault = (file) =>
      file === LARGE ? { bytes: made(400_000, "large"), isChunked: true } : undefined;
    expect(await refusal(fetched())).toMatch(/is longer than the 300000 bytes/);
    expect(existsSync(join(blobs(), hashOf(files[LARGE])))).toBe(false);
  });

  test.each([LARGE, SMALL])("other bytes than listed, in %s", async (name) => {
    const { files } = offer();
    const bytes = Buffer.from(files[name]);
    bytes[bytes.length >> 1] ^= 1;
    place.hub.fault = (file) => (file === name ? { bytes } : undefined);
    const said = await refusal(fetched());
    expect(said).toMatch(/^UserError: data\/.* arrived damaged/);
    expect(said).toContain(hashOf(files[name]));
    expect(said).toContain(hashOf(bytes));
    expect(readdirSync(blobs()).filter((blob) => blob.startsWith(hashOf(files[name])))).toEqual([]);
    place.hub.fault = () => undefined;
    expect(await fetched()).toEqual(Object.values(files));
  });

  test("a file that has changed since it was listed", async () => {
    const repo = offer();
    const before = repo.files[LARGE];
    const opened = await openRepo("dataset", "owner/texts", fast);
    repo.files[LARGE] = made(before.length, "changed");
    expect(await refusal(opened.fetch([LARGE]))).toMatch(/is of hash [0-9a-f]{64}, not/);
  });

  test("what an earlier attempt left of another file is not continued", async () => {
    const repo = offer();
    const before = repo.files[LARGE];
    place.hub.fault = (_, { range }) => (range ? { status: 500 } : { cutAfter: 100_000 });
    await refusal(fetched([LARGE]));
    place.hub.fault = () => undefined;
    place.hub.asked.length = 0;
    repo.files[LARGE] = made(before.length, "changed");
    repo.commit = commitOf("changed");
    expect(await fetched([LARGE])).toEqual([repo.files[LARGE]]);
    expect(ranges()).toEqual([undefined]);
  });

  test("a damaged rest of an earlier attempt costs a fresh start, no more", async () => {
    const { files } = offer();
    place.hub.fault = (_, { range }) => (range ? { status: 500 } : { cutAfter: 100_000 });
    await refusal(fetched([LARGE]));
    place.hub.fault = () => undefined;
    const partial = partialOf(files[LARGE]);
    writeFileSync(partial, Buffer.alloc(statSync(partial).size));
    expect(await fetched([LARGE])).toEqual([files[LARGE]]);
  });

  test("a blob that has lost its end is fetched again", async () => {
    const { files } = offer();
    await fetched();
    truncateSync(join(blobs(), hashOf(files[LARGE])), 1000);
    expect(await fetched()).toEqual(Object.values(files));
  });

  test("an empty file is a file", async () => {
    const repo = offer();
    repo.files[SMALL] = Buffer.alloc(0);
    expect(await fetched()).toEqual(Object.values(repo.files));
  });
});

describe("the disk", () => {
  test("that is full says so, and what arrived is kept", async () => {
    const { files } = offer();
    const handle = await open(import.meta.filename);
    const prototype = Object.getPrototypeOf(handle) as { write: (...args: unknown[]) => unknown };
    await handle.close();
    const write = prototype.write;
    place.hub.fault = () => ({ pauseMs: 2 });
    let left = 5;
    const spy = vi.spyOn(prototype, "write").mockImplementation(function (this: unknown, ...args) {
      if (left-- > 0) return write.apply(this, args);
      throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    });
    const said = await refusal(fetched([LARGE]));
    spy.mockRestore();
    expect(said).toMatch(/^UserError: data\/large\.bin .*the disk is full.*kept.*HF_HUB_CACHE/);
    expect(statSync(partialOf(files[LARGE])).size).toBeGreaterThan(0);
    expect(await fetched([LARGE])).toEqual([files[LARGE]]);
    expect(ranges().at(-1)).toMatch(/^bytes=[1-9]/);
  });

  test("that has too little room is not filled in the first place", async () => {
    const repo = offer();
    Object.assign(repo, { lies: { [LARGE]: { size: 1e18 } } });
    expect(await refusal(fetched([LARGE]))).toMatch(
      /needs 1,000,000,000,000 MB more.*HF_HUB_CACHE/,
    );
    expect(place.hub.fetched()).toEqual([]);
  });
});

describe("two at once", () => {
  test("fetch a file once between them", async () => {
    const { files } = offer();
    place.hub.fault = () => ({ pauseMs: 5 });
    const [one, other] = await Promise.all([fetched(), fetched()]);
    expect(one).toEqual(Object.values(files));
    expect(other).toEqual(one);
    expect(ranges()).toEqual([undefined]);
    expect(readdirSync(join(place.cache, "hub", ".locks", "datasets--owner--texts"))).toEqual([]);
  });

  test("one of which is stopped leaves the other to it", async () => {
    const { files } = offer();
    place.hub.fault = () => ({ pauseMs: 20 });
    const controller = new AbortController();
    const first = refusal(fetched([LARGE], { signal: controller.signal }));
    await vi.waitFor(() => expect(existsSync(partialOf(files[LARGE]))).toBe(true));
    const second = fetched([LARGE]);
    await sleep(50);
    controller.abort(new Error("enough"));
    expect(await first).toBe("Error: enough");
    expect(await second).toEqual([files[LARGE]]);
    expect(ranges()[1]).toMatch(/^bytes=[1-9]/);
  });
});

describe("`lens` that fetches a model", () => {
  const fixture = fileURLToPath(new URL("../fixtures/gpt2-tiny/f32", import.meta.url));
  const generate = ["generate", "Once", "--model", "owner/tiny", "--tokens", "2"];
  const weights = filesOf(fixture)["model.safetensors"];
  const partial = () =>
    join(place.cache, "hub", "models--owner--tiny", "blobs", `${hashOf(weights)}.lens.incomplete`);

  test("shows how far it is, and on stdout nothing but its result", async () => {
    place.hub.repos.set("models/owner/tiny", { commit, files: filesOf(fixture) });
    const { code, stdout, stderr } = await startLens(dirname(fixture), ...generate).outcome;
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.stringMatching(/^fetching owner\/tiny: 0\.2\d+ MB in .* MB\/s\n$/) as string,
    });
    expect(stdout).toMatch(/^Once/);
  });

  test("twice at once fetches it once", async () => {
    place.hub.repos.set("models/owner/tiny", { commit, files: filesOf(fixture) });
    place.hub.fault = (file) => (file === "model.safetensors" ? { pauseMs: 100 } : undefined);
    const both = [1, 2].map(() => startLens(dirname(fixture), ...generate).outcome);
    const [one, other] = await Promise.all(both);
    expect([one.code, other.code], one.stderr + other.stderr).toEqual([0, 0]);
    expect(one.stdout).toBe(other.stdout);
    const paths = place.hub.asked.filter(({ at }) => at === "cdn").map(({ path }) => path);
    expect(new Set(paths).size).toBe(paths.length);
  });

  test("interrupted, stops at once and keeps what arrived", async () => {
    place.hub.repos.set("models/owner/tiny", { commit, files: filesOf(fixture) });
    place.hub.fault = (file) => (file === "model.safetensors" ? { pauseMs: 500 } : undefined);
    const out = join(place.cache, "activations");
    const collect = ["collect", "--out", out, "--activations.model", "owner/tiny"];
    const { child, outcome } = startLens(dirname(fixture), ...collect);
    await vi.waitFor(() => expect(statSync(partial()).size).toBeGreaterThan(0), 30_000);
    child.kill("SIGINT");
    const { code, stderr } = await outcome;
    expect(code).toBe(130);
    expect(stderr).toMatch(/stopped\n$/);
    expect(statSync(partial()).size).toBeGreaterThan(0);
  });

  test("killed in the middle, goes on from there", async () => {
    place.hub.repos.set("models/owner/tiny", { commit, files: filesOf(fixture) });
    place.hub.fault = (file) => (file === "model.safetensors" ? { pauseMs: 100 } : undefined);
    const { child, outcome } = startLens(dirname(fixture), ...generate);
    await vi.waitFor(() => expect(statSync(partial()).size).toBeGreaterThan(30_000), 30_000);
    child.kill("SIGKILL");
    await outcome;
    const kept = statSync(partial()).size;
    place.hub.fault = () => undefined;
    place.hub.asked.length = 0;
    const { code, stderr } = await startLens(dirname(fixture), ...generate).outcome;
    expect(stderr).toContain("fetching owner/tiny");
    expect(code).toBe(0);
    expect(ranges()).toEqual([`bytes=${kept}-`]);
    const folder = await fetchModel("owner/tiny");
    expect(readFileSync(join(folder, "model.safetensors"))).toEqual(weights);
  });
});
