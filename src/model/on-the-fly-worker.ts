/** Entry of the thread in which a model makes rows for training, see on-the-fly.ts. */
import { messageOf, UserError } from "../error.ts";
import { workerPort } from "../platform.node.ts";
import { loadModel } from "./model.ts";
import { modelRows, type ModelRows } from "./model-rows.ts";
import type { RowsAnswer, RowsRequest, RowsSettings } from "./on-the-fly.ts";

const port = workerPort();
const { folder, load, plan, hookPoints, perPass, current } = port.data as RowsSettings;
const model = loadModel(folder, { ...load, download: false });
model.catch(() => undefined); // whoever asks for rows hears of it

let stream = -1;
let rows: AsyncGenerator<ModelRows, void> | undefined;
let finished: number | undefined;

/** Makes the next rows of a stream; of one that nobody wants any more, none. */
async function answer(request: Exclude<RowsRequest, { close: true }>): Promise<void> {
  const isWanted = () => Atomics.load(current, 0) === request.stream;
  if (!isWanted()) return;
  const opened = await model;
  if (request.stream !== stream) {
    const { start, end } = request;
    stream = request.stream;
    rows = modelRows(opened, plan, hookPoints, { start, end, perPass, isWanted });
  }
  const began = performance.now();
  const waitedMs = finished === undefined ? 0 : began - finished;
  const { value } = await rows!.next();
  finished = performance.now();
  const transfer = (value?.blocks ?? []).flatMap(({ values, scales }) => [values.buffer, scales.buffer]); // prettier-ignore
  const made: RowsAnswer = { stream, made: value, workedMs: finished - began, waitedMs };
  port.post(made, transfer);
}

port.onMessage(async (message) => {
  const request = message as RowsRequest;
  try {
    if (!("close" in request)) await answer(request);
    else await (await model).close();
  } catch (error) {
    const failed: RowsAnswer = { error: messageOf(error), isUsers: error instanceof UserError };
    port.post(failed);
  }
});
