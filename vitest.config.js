import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

import { PATIENCE_MS } from "./test/patience.ts";

const source = (name) => fileURLToPath(new URL(`./src/${name}`, import.meta.url));

export default defineConfig({
  resolve: {
    // Tests run the sources, package.json points to what is built from them.
    alias: { "latent-lens": source("index.ts"), "#platform": source("platform.node.ts") },
  },
  test: {
    // No test asks the real hub, or finds what a person has fetched from it.
    env: { HF_HUB_OFFLINE: "1", HF_HOME: "/nonexistent/huggingface" },
    setupFiles: ["./test/equal-arrays.ts"],
    include: ["src/**/*.test.ts", "test/**/*.test.ts"],
    // Native add-ons are not all safe in worker threads.
    pool: "forks",
    // Some wait for processes, a browser or a database most of the time. Three gain nothing on two cores.
    maxWorkers: 2,
    // Longer than one wait in them, so that it is that which says what was waited for.
    testTimeout: 1.5 * PATIENCE_MS,
    hookTimeout: 1.5 * PATIENCE_MS,
    expect: { poll: { timeout: PATIENCE_MS } },
    reporters: ["default", "./scripts/test-reporter.mjs"],
  },
});
