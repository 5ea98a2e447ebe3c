/**
 * Models on WebGPU, drawn in software by the Vulkan driver that comes with Chromium on Debian. Where there is
 * none, these tests are skipped; with CI set they fail.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

import { loadModel } from "../src/model/model.ts";
import { requireAgreement } from "../src/model/webgpu-session.ts";
import { fixtureModel } from "./command.ts";
import { families, familyFolder } from "./family-fixture.ts";

const DRIVER = "/usr/lib/chromium";
const icd = `${DRIVER}/vk_swiftshader_icd.json`;
const hasDriver = existsSync(icd) || Boolean(process.env.CI);
if (!hasDriver) process.stderr.write(`models on WebGPU are not tested: there is no ${icd}\n`);

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** What webgpu-models.ts prints. */
async function onGpu(folders: readonly string[], env: NodeJS.ProcessEnv) {
  const args = ["--import", path("typescript-loader.mjs"), path("webgpu-models.ts"), ...folders];
  const child = spawn(process.execPath, args, { env });
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (text: string) => (said[name] += text));
  const code = await new Promise((done) => child.once("close", done));
  return { code, ...said };
}

test.skipIf(!hasDriver)(
  "every family computes on WebGPU what it computes on the CPU",
  { timeout: 300_000 },
  async () => {
    const folders: string[] = [];
    for (const family of families) folders.push(await familyFolder(family));
    // The driver, and the loader that finds it.
    const env = { ...process.env, VK_ICD_FILENAMES: icd, LD_LIBRARY_PATH: DRIVER };
    const { code, stdout, stderr } = await onGpu(folders, env);
    expect(code, stderr).toBe(0);
    const found = Object.values(JSON.parse(stdout) as Record<string, number>);
    expect(found).toHaveLength(families.length);
    for (const [i, difference] of found.entries()) expect(difference, families[i]).toBeLessThan(1e-4); // prettier-ignore
  },
);

test("without a GPU the model is refused, with what it takes", async () => {
  const env = { ...process.env, VK_ICD_FILENAMES: "/nonexistent", VK_DRIVER_FILES: "/nonexistent" };
  const { code, stderr } = await onGpu([fixtureModel], env);
  if (process.platform !== "linux") return; // others have no such switch
  expect(code).not.toBe(0);
  expect(stderr).toContain("no GPU was found that WebGPU can use");
});

test("a driver that computes wrongly is found out", () => {
  const values = (...data: number[]) => ({ logits: { data: Float32Array.from(data) } });
  expect(() => requireAgreement(values(1, 2, 3.0001), values(1, 2, 3))).not.toThrow();
  expect(() => requireAgreement(values(1, 2, 3.1), values(1, 2, 3))).toThrow(
    "logits differs from the CPU's by 0.027",
  );
  expect(() => requireAgreement(values(1, NaN, 3), values(1, 2, 3))).toThrow("Infinity");
});

test("int8 weights and WebGPU are refused together", async () => {
  const both = loadModel("builtin:tiny", { device: "webgpu", weights: "int8" });
  await expect(both).rejects.toThrow("int8 weights are for the CPU");
});
