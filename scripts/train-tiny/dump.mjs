// Writes stories of the built-in corpus for train.py: one JSON object per line, { text, bits }.
// usage: node scripts/train-tiny/dump.mjs SPLIT COUNT OUT.jsonl   (after `npm run build`)
import { createWriteStream } from "node:fs";

const [split, count, out] = process.argv.slice(2);
const { storyAt } = await import(
  process.env.LENS_CORPUS ?? new URL("../../dist/corpus/index.js", import.meta.url).href
);
const file = createWriteStream(out);
for (let i = 0; i < Number(count); i++) {
  const { text, bits } = storyAt(split, i);
  if (!file.write(JSON.stringify({ text, bits }) + "\n"))
    await new Promise((resolve) => file.once("drain", resolve));
}
file.end();
