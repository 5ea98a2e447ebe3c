/** The tiny models of every family that test/oracles/make-family-fixtures.py wrote. */
import { readdirSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";

const root = fileURLToPath(new URL("fixtures/", import.meta.url));
export const families = readdirSync(join(root, "families")).sort();
export const familyFixture = (family: string) => join(root, "families", family);

const scratch = await mkdtemp(join(tmpdir(), "lens-families-"));
afterAll(() => rm(scratch, { recursive: true, force: true }));

/** A copy of a family's model with a tokenizer, and other settings in its config.json. */
export async function familyFolder(
  family: string,
  settings?: Record<string, unknown>,
): Promise<string> {
  const folder = await mkdtemp(join(scratch, `${family}-`));
  await cp(familyFixture(family), folder, { recursive: true });
  const tokenizer = family.includes("bert") ? "tokenizers/bert" : "gpt2-tiny/f32";
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    await cp(join(root, tokenizer, name), join(folder, name));
  if (settings) {
    const path = join(folder, "config.json");
    const config = JSON.parse(await readFile(path, "utf8")) as object;
    await writeFile(path, JSON.stringify({ ...config, ...settings }));
  }
  return folder;
}
