/** A model's folder in Hugging Face layout: where it is, its configuration and its weights' files. */
import { access, readFile, realpath, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { messageOf, UserError } from "../error.ts";
import { Safetensors } from "../safetensors.ts";
import { parseRepoName } from "./hub-cache.ts";
import type { HubOptions } from "./hub.ts";

/**
 * Where a model is: see `loadModel`. One of the hub is fetched first.
 * @throws UserError when there is no such model.
 */
export async function modelFolder(source: string, options: HubOptions = {}): Promise<string> {
  if (source.startsWith("builtin:")) {
    if (source !== "builtin:tiny") {
      throw new UserError(`there is no built-in model ${source}; the only one is builtin:tiny.`);
    }
    return fileURLToPath(new URL("../../models/tiny", import.meta.url)); // from src/model or dist/model
  }
  const status = await stat(source).catch(() => undefined);
  if (status?.isDirectory()) return resolve(source);
  if (!status && parseRepoName("model", source)) {
    const { fetchModel } = await import("./hub.ts");
    return fetchModel(source, options);
  }
  throw new UserError(
    `model ${source} ${status ? "is not a folder" : "does not exist"}: give the path of a folder ` +
      "with config.json, model.safetensors and tokenizer.json, a model of the Hugging Face hub " +
      "(owner/name or owner/name@revision), or builtin:tiny.",
  );
}

/** The tensors of a model's folder, of all its shards. @throws UserError when it has no weights that can be read. */
export async function openCheckpoint(folder: string): Promise<Safetensors> {
  for (const name of ["model.safetensors", "model.safetensors.index.json"]) {
    const path = join(folder, name);
    if (!(await exists(path))) continue;
    // Shards of a download cache are links; the runtime refuses links that leave its folder.
    if (name.endsWith(".index.json")) return realShards(await Safetensors.open(path));
    return Safetensors.open(await realpath(path));
  }
  const other = (await exists(join(folder, "pytorch_model.bin")))
    ? " Weights in pytorch_model.bin must be saved as safetensors first."
    : "";
  throw new UserError(
    `${folder} has neither model.safetensors nor model.safetensors.index.json.${other}`,
  );
}

/** The same tensors with every file under its real path, in the order of their names: blobs of a cache are named by hash. */
async function realShards(shards: Safetensors): Promise<Safetensors> {
  const real = await Promise.all([...shards.files].sort().map((file) => realpath(file)));
  await shards.close();
  return Safetensors.openAll(real);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** @throws UserError when there is no such file, or it is not JSON. */
export async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new UserError(`${path} does not exist: is ${dirname(path)} the folder of a model?`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path} is not JSON (${messageOf(error)}): fetch or write it again.`);
  }
}
