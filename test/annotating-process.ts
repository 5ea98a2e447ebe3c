/**
 * A process that annotates one feature, for tests that need several at once:
 *
 *     annotating-process.ts '{"database": …, "author": "ada", "field": "label", "count": 40}'
 *
 * Waits for a line on stdin once the database is open, then edits the field and adds a tag, again and
 * again, and prints one line of JSON for each version that was acknowledged.
 */
import { once } from "node:events";
import { setTimeout } from "node:timers/promises";

import { Annotations } from "../src/server/annotations.ts";

export interface Task {
  database: string;
  run: string;
  latent: number;
  author: string;
  field: "label" | "notes";
  count: number;
  /** Tags that are added one by one. */
  tags: string[];
  /** Another who edits too: after its first edit this one goes on when that one has begun. */
  beside?: string;
}

async function hasBegun(other: string): Promise<boolean> {
  return (await annotations.history(run, latent)).some(({ author }) => author === other);
}

const task = JSON.parse(process.argv[2]) as Task;
const { run, latent, author, field } = task;
const annotations = await Annotations.open(task.database);
console.log("ready");
await once(process.stdin, "data");
let { version, tags } = await annotations.get(run, latent);
for (let i = 0; i < task.count; i++) {
  const said = `${author} ${i}`;
  const change = { [field]: said, tags: [...tags, ...task.tags.slice(i, i + 1)] };
  ({ version, tags } = await annotations.edit(run, latent, change, { author, basedOn: version }));
  console.log(JSON.stringify({ version, said }));
  while (i === 0 && task.beside !== undefined && !(await hasBegun(task.beside)))
    await setTimeout(5);
}
await annotations.close();
process.stdin.destroy();
