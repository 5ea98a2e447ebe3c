// 200 who read features of a run one after the other, for six seconds: node readers.mjs PORT RUN PAUSE_MS
// Prints {"p99": milliseconds, "rate": requests a second}.
import { Agent, get } from "node:http";

const READERS = 200;
const SECONDS = 6;
const [port, run, text] = process.argv.slice(2);
const pause = Number(text);
const agent = new Agent({ keepAlive: true, maxSockets: READERS });
const times = [];
const until = performance.now() + 1000 * SECONDS;

const read = (latent) =>
  new Promise((done, failed) => {
    const began = performance.now();
    const path = `/api/runs/${run}/features/${latent}`;
    get({ host: "127.0.0.1", port, path, agent }, (response) => {
      response.resume();
      response.on("end", () => done(times.push(performance.now() - began)));
    }).on("error", failed);
  });
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

await Promise.all(
  Array.from({ length: READERS }, async (_, i) => {
    await wait((pause * i) / READERS); // not in step
    for (let n = 0; performance.now() < until; n++) {
      await read((37 * i + 13 * n) % 2000);
      if (pause > 0) await wait(pause);
    }
  }),
);
agent.destroy();
times.sort((a, b) => a - b);
const p99 = times[Math.floor(0.99 * times.length)];
console.log(JSON.stringify({ p99, rate: Math.round(times.length / SECONDS) }));
