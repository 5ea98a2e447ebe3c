/** What an endpoint answered, kept on disk: a file for each question, which appears whole. */
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** The text of an answer, or of a question about embeddings the vectors. */
export interface Stored {
  text?: string;
  vectors?: number[][];
}

export class Answers {
  readonly #dir: string;
  /** Who answers, as part of every question. */
  readonly #from: readonly string[];

  private constructor(dir: string, from: readonly string[]) {
    this.#dir = dir;
    this.#from = from;
  }

  static async in(dir: string, url: string, model: string): Promise<Answers> {
    await mkdir(dir, { recursive: true });
    return new Answers(dir, [url, model]);
  }

  keyOf(kind: "chat" | "embeddings", content: unknown): string {
    const all = JSON.stringify([kind, ...this.#from, content]);
    return createHash("sha256").update(all).digest("hex");
  }

  async get(key: string): Promise<Stored | undefined> {
    try {
      return JSON.parse(await readFile(this.#path(key), "utf8")) as Stored;
    } catch {
      // Absent or cut short: asked again.
      return undefined;
    }
  }

  async set(key: string, answer: Stored): Promise<void> {
    const temporary = `${this.#path(key)}.${randomUUID()}`;
    await writeFile(temporary, JSON.stringify(answer));
    await rename(temporary, this.#path(key));
  }

  #path(key: string): string {
    return join(this.#dir, `${key}.json`);
  }
}
