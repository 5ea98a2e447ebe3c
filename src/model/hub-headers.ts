/** What a model of the hub is, without fetching its weights: its configuration, and the headers of its weights' files. */
import { messageOf, UserError } from "../error.ts";
import { readHeader, type Safetensors, type TensorInfo } from "../safetensors.ts";
import { showName } from "./hub-cache.ts";
import { addressOf, ask, follow, hubSettings, Patience, reasonOf, refusal } from "./hub-client.ts";
import { type HubRepo, modelFiles } from "./hub.ts";

/** A configuration is a few kilobytes. */
const MAX_CONFIG_BYTES = 16e6;

/** The repository's config.json. Nothing is put into the cache. */
export async function remoteConfig(repo: HubRepo): Promise<unknown> {
  const file = repo.files.find(({ path }) => path === "config.json");
  if (!file || file.size > MAX_CONFIG_BYTES)
    throw new UserError(
      `model ${showName(repo.name)} has ${file ? `a config.json of ${file.size} bytes` : "no config.json"}: it is no model in Hugging Face layout.`,
    );
  const settings = hubSettings();
  const text = await (
    await ask(settings, repo.name, addressOf(settings, repo.name, repo.commit, "config.json"))
  ).text();
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`config.json of ${showName(repo.name)} is not JSON (${messageOf(error)}).`);
  }
}

/** The tensors in the files of its weights, each with its place: only the headers are read. */
export async function remoteTensors(
  repo: HubRepo,
): Promise<Pick<Safetensors, "files" | "tensors">> {
  const paths = repo.files.map(({ path }) => path);
  const files = modelFiles(paths, showName(repo.name)).filter((path) => path.endsWith(".safetensors")); // prettier-ignore
  const tensors = new Map<string, TensorInfo>();
  for (const path of files) {
    const { size } = repo.files.find((file) => file.path === path)!;
    const { tensors: found } = await readHeader(path, size, (from, length) =>
      readRange(repo, path, from, length),
    );
    for (const tensor of found) tensors.set(tensor.name, tensor);
  }
  return { files, tensors };
}

/** `length` bytes of a file; a server that would send all of it is refused. */
async function readRange(
  repo: HubRepo,
  path: string,
  from: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const settings = hubSettings();
  const patience = new Patience(settings.timeoutMs);
  const failed = (why: string) =>
    new UserError(`the header of ${path} of ${showName(repo.name)} cannot be read: ${why}.`);
  try {
    const headers = { range: `bytes=${from}-${from + length - 1}` };
    const init = { headers, signal: patience.signal };
    const { response } = await follow(
      settings,
      addressOf(settings, repo.name, repo.commit, path),
      init,
    );
    if (!response.ok) throw await refusal(settings, repo.name, response, path);
    if (response.status !== 206) {
      await response.body?.cancel();
      throw failed("the server sends whole files only");
    }
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (bytes.length !== length) throw failed(`${bytes.length} bytes came of ${length}`);
    return bytes;
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw failed(reasonOf(error));
  } finally {
    patience.end();
  }
}
