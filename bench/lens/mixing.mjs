/**
 * How far batches stray from random ones when a buffer mixes rows that lie sorted: documents of 256
 * rows each share a direction, and the documents of a topic follow each other. Settings: rows, batch,
 * buffers (shares of the rows).
 *
 * Answers per buffer the mean of ‖batch mean - mean‖², divided by what batches drawn at random without
 * replacement would have: 1 is as good as random.
 */
import { memorySource } from "../../dist/index.js";
import { answer, settings } from "./serve.mjs";

const [DOCUMENT, TOPICS, D] = [256, 8, 32];
const { rows, batch, buffers } = settings;

let state = 1;
function normal() {
  let sum = 0;
  for (let i = 0; i < 12; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    sum += (state >>> 0) / 2 ** 32;
  }
  return sum - 6;
}
const vector = () => Float64Array.from({ length: D }, normal);
const topics = Array.from({ length: TOPICS }, vector);
const data = new Float32Array(rows * D);
let document = vector();
for (let n = 0; n < rows; n++) {
  if (n % DOCUMENT === 0) document = vector();
  const topic = topics[Math.floor((n / rows) * TOPICS)];
  for (let c = 0; c < D; c++) data[n * D + c] = topic[c] + document[c] + normal();
}
const mean = new Float64Array(D);
for (let i = 0; i < data.length; i++) mean[i % D] += data[i] / rows;
let variance = 0;
for (let i = 0; i < data.length; i++) variance += (data[i] - mean[i % D]) ** 2 / rows;
const expected = (variance / batch) * (1 - batch / rows);

const source = memorySource(data, D);
const results = [];
for (const share of buffers) {
  const [distances, seeds] = [[], 4];
  for (let seed = 0; seed < seeds; seed++) {
    const options = { batchSize: batch, seed, shuffle: true, bufferRows: Math.round(share * rows) };
    for await (const { data: x, rows: count, next } of source.batches(options)) {
      if (count === batch) {
        const sum = new Float64Array(D);
        for (let i = 0; i < count * D; i++) sum[i % D] += x[i] / count;
        distances.push(sum.reduce((total, v, c) => total + (v - mean[c]) ** 2, 0));
      }
      if (next.epoch > 0) break;
    }
  }
  const measured = distances.reduce((a, b) => a + b) / distances.length;
  results.push({ share, ratio: measured / expected, batches: distances.length });
}
answer({ results });
