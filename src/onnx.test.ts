import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";

import { OnnxGraph } from "./onnx.ts";
import { loadOrt, sessionOptions } from "./ort.ts";

const folder = await mkdtemp(join(tmpdir(), "lens-onnx-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

test("a graph with inputs, attributes, inline and external tensors computes what it says", async () => {
  const ort = await loadOrt();
  // weight [3, 2] lies 5 bytes into a file that also holds other things
  const file = new Uint8Array(5 + 24 + 3);
  const weight = Float32Array.of(1, 2, 3, 4, 5, 6);
  file.set(new Uint8Array(weight.buffer), 5);
  await writeFile(join(folder, "weights.bin"), file);

  const graph = new OnnxGraph();
  graph.input("x", "float32", ["rows", 2]);
  graph.external("w", "float32", [3, 2], { location: "weights.bin", offset: 5, length: 24 });
  graph.initializer("b", "float32", [3], Float32Array.of(0.5, 0, -0.5));
  const product = graph.op("Gemm", ["x", "w", "b"], { transB: 1, alpha: { float: 2 } });
  graph.op("Mul", [product, graph.floatScalar(10)], {}, { name: "y" });
  graph.output("y", "float32", ["rows", 3]);
  const [left, right] = graph.ops("Split", ["y", graph.int64(1, 2)], { axis: -1 }, { outputs: 2 });
  graph.output(left, "float32", ["rows", 1]);
  graph.output(right, "float32", ["rows", 2]);

  const session = await ort.InferenceSession.create(
    graph.encode(),
    sessionOptions({ externalFolder: folder, threads: 1 }),
  );
  const result = await session.run({ x: new ort.Tensor("float32", [1, 1, 1, -1], [2, 2]) });
  // 10 · (2 · x·wᵀ + b)
  expect([...result.y.data]).toEqual([65, 140, 215, -15, -20, -25]);
  expect([...result[left].data]).toEqual([65, -15]);
  expect([...result[right].data]).toEqual([140, 215, -20, -25]);
  await session.release();
});

test("what no output needs is not written, so a missing tensor nobody reads does no harm", async () => {
  const build = (withTail: boolean) => {
    const graph = new OnnxGraph();
    graph.input("x", "float32", [2]);
    graph.op("Neg", ["x"], {}, { name: "y" });
    graph.output("y", "float32", [2]);
    if (withTail) {
      graph.external("gone", "float32", [2], { location: "no such file", offset: 0, length: 8 });
      graph.op("Add", ["y", "gone"]);
    }
    return graph.encode();
  };
  expect(build(true)).toEqual(build(false));
});

test("integers beyond 32 bits and negative ones survive the encoding", async () => {
  const ort = await loadOrt();
  const graph = new OnnxGraph();
  graph.input("x", "int64", [1]);
  graph.op("Add", ["x", graph.int64(-(2 ** 40) - 1)], {}, { name: "y" });
  graph.output("y", "int64", [1]);
  const session = await ort.InferenceSession.create(graph.encode(), sessionOptions());
  const { y } = await session.run({ x: new ort.Tensor("int64", [2n], [1]) });
  expect([...(y.data as BigInt64Array)]).toEqual([1n - 2n ** 40n]);
  await session.release();
});

test("a float where ONNX wants an integer, and a name used twice, are refused", () => {
  const graph = new OnnxGraph();
  graph.input("x", "float32", [1]);
  graph.op("Neg", ["x"], { epsilon: 0.5 }, { name: "y" });
  graph.output("y", "float32", [1]);
  expect(() => graph.encode()).toThrow("integer expected, got 0.5");
  expect(() => graph.input("x", "float32", [1])).toThrow("already has a value named x");
});
