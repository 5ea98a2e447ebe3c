import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

import { survives, writeStore } from "./crash/kill-training.ts";

// Every case of every architecture: npm run crash.
test.each(["matryoshka over batchTopk", "resampling jumprelu transcoder"])(
  "training killed by SIGKILL and gone on with ends as if undisturbed, bit for bit (%s)",
  async (name) => {
    const folder = await mkdtemp(join(tmpdir(), "lens-crash-"));
    try {
      await writeStore(join(folder, "store"));
      const options = { store: join(folder, "store"), folder: join(folder, "case"), kills: 1 };
      const { killedAt, resumedAt, different, files } = await survives(name, options);
      expect(different).toEqual([]);
      expect(files).toBe(8);
      expect(killedAt[0]).toBeGreaterThanOrEqual(resumedAt[0]);
    } finally {
      await rm(folder, { recursive: true });
    }
  },
  120_000,
);
