/** Collects slowly, telling how far it got, until it is done or killed. Arguments: text, folder, tokens, rows per shard. */
import { collect } from "../../src/model/collect.ts";
import { stubModel } from "../stub-model.ts";

const [text, out, tokens, shardRows] = process.argv.slice(2);
await collect(stubModel({ delayMs: 2 }), text, {
  out,
  hookPoint: "*",
  tokens: Number(tokens),
  shardRows: Number(shardRows),
  contextLength: 16,
  batchRows: 4,
  onProgress: ({ done }) => process.stdout.write(`${done}\n`),
});
