/** The cpu device as a queue, a memory and a crew of threads; what it computes is tested elsewhere. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "vitest";

import { PATIENCE_MS } from "../../test/patience.ts";
import { UserError } from "../error.ts";
import { SharedMemory } from "./cpu-memory.ts";
import { openCpu } from "./cpu.ts";
import { openDevice, type Device, type Tensor } from "./device.ts";

const open: Device[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((device) => device.close()));
});
async function cpu(threads = 2): Promise<Device> {
  const device = await openDevice("cpu", { threads });
  open.push(device);
  return device;
}

function filled(device: Device, shape: number[], value: number): Tensor {
  const tensor = device.tensor(shape);
  device.write(tensor, new Float32Array(shape.reduce((a, b) => a * b)).fill(value));
  return tensor;
}

const sum = (device: Device, x: Tensor, out: Tensor) =>
  device.columnSum({ rows: x.shape[0], x, scale: 1, out, accumulate: false });

describe("the queue", () => {
  test("a write waits for the operations queued before it", async () => {
    const device = await cpu();
    const x = filled(device, [500, 3], 1);
    const sums = Array.from({ length: 20 }, () => device.tensor([3]));
    for (const [turn, out] of sums.entries()) {
      device.write(x, new Float32Array(1500).fill(turn));
      sum(device, x, out);
      if (turn % 5 === 0) await Promise.resolve(); // lets a list go
    }
    for (const [turn, out] of sums.entries()) {
      expect(await device.readF32(out)).toEqual(new Float32Array(3).fill(500 * turn));
    }
  });

  test("a read takes the numbers as they were when it was called", async () => {
    const device = await cpu();
    const x = filled(device, [100, 3], 1);
    const out = device.tensor([3]);
    const reads: Promise<Float32Array>[] = [];
    for (let turn = 0; turn < 10; turn++) {
      device.write(x, new Float32Array(300).fill(turn));
      sum(device, x, out);
      reads.push(device.readF32(out, 2));
    }
    device.write(out, Float32Array.of(-1, -1, -1));
    for (const [turn, read] of (await Promise.all(reads)).entries()) {
      expect(read).toEqual(new Float32Array(2).fill(100 * turn));
    }
    expect(await device.readF32(out)).toEqual(Float32Array.of(-1, -1, -1));
  });

  test("arguments and arrays may be reused at once", async () => {
    const device = await cpu();
    const [x, a, b] = [device.tensor([2, 2]), device.tensor([2]), device.tensor([2])];
    const data = Float32Array.of(1, 2, 3, 4);
    const op = { rows: 1, x, scale: 1, out: a, accumulate: false };
    device.columnSum(op); // something to wait for
    device.write(x, data);
    data.fill(0);
    device.columnSum(op);
    Object.assign(op, { rows: 2, scale: 10, out: b });
    device.columnSum(op);
    expect(await device.readF32(a)).toEqual(Float32Array.of(1, 2));
    expect(await device.readF32(b)).toEqual(Float32Array.of(40, 60));
  });

  test("a tensor may be freed while operations still use it", async () => {
    const device = await cpu();
    const out = device.tensor([700]);
    for (let turn = 1; turn <= 5; turn++) {
      const x = filled(device, [400, 700], turn);
      sum(device, x, out);
      const read = device.readF32(out);
      device.free(x);
      filled(device, [400, 700], 99);
      expect(await read).toEqual(new Float32Array(700).fill(400 * turn));
    }
  });

  test("more waiting writes than the staging room holds are not lost", async () => {
    const device = await cpu();
    const x = device.tensor([1024, 1024]);
    const out = device.tensor([1024]);
    const data = new Float32Array(2 ** 20); // 4 MiB; 256 MiB may wait
    for (let turn = 0; turn < 80; turn++) {
      device.write(x, data.fill(turn % 7));
      device.columnSum({ rows: 1024, x, scale: 1, out, accumulate: true });
    }
    const total = Array.from({ length: 80 }, (_, turn) => turn % 7).reduce((a, b) => a + b);
    expect(await device.readF32(out)).toEqual(new Float32Array(1024).fill(1024 * total));
  });

  test("parts of tensors are written and read, whatever the length of a row", async () => {
    const device = await cpu();
    for (const columns of [1, 3, 4, 7]) {
      const tensor = device.tensor([5, columns]);
      const data = Float32Array.from({ length: 5 * columns }, (_, i) => i);
      device.write(tensor, data);
      device.write(tensor, Float32Array.of(-1, -2, -3), columns + 1);
      const expected = data.slice();
      expected.set([-1, -2, -3], columns + 1);
      expect(await device.readF32(tensor)).toEqual(expected);
      expect(await device.readF32(tensor, columns + 2)).toEqual(expected.slice(0, columns + 2));
    }
  });
});

describe("what lies beside the numbers", () => {
  const adam = { learningRate: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, step: 1 };
  const moments = (device: Device, shape: number[]) => ({
    m: device.tensor(shape),
    v: device.tensor(shape),
  });

  /** Σ x² as the device adds it up, padding and all. */
  async function squares(device: Device, x: Tensor): Promise<number> {
    const out = device.tensor([1]);
    device.sumOfSquares({ x, out, accumulate: false });
    return (await device.readF32(out))[0];
  }

  test("a lower bound raises no padding", async () => {
    const device = await cpu();
    for (const shape of [[5], [3, 5]]) {
      const [param, grad] = [device.tensor(shape), device.tensor(shape)];
      const op = { param, grad, moments: moments(device, shape), adam };
      device.updateVector({ ...op, min: 2 });
      expect(await squares(device, param)).toBe(4 * shape.reduce((a, b) => a * b));
    }
  });

  test("a factor that is no number leaves padding 0", async () => {
    const device = await cpu();
    const factor = filled(device, [1], NaN);
    const [x, grad] = [filled(device, [3, 5], 1), filled(device, [3, 5], 1)];
    const param = filled(device, [3, 5], 1);
    const own = moments(device, [3, 5]);
    device.multiply({ rows: 3, x, by: factor });
    device.updateVector({ param, grad, moments: own, adam, scale: factor });
    const [a, b] = [device.tensor([3, 2]), device.tensor([2, 5])];
    for (const tensor of [x, param, own.m, own.v]) {
      expect(await device.readF32(tensor)).toEqual(new Float32Array(15).fill(NaN));
      // A product writes the numbers and nothing else.
      device.matmul({ a, b, transA: false, transB: false, out: tensor });
      expect(await squares(device, tensor)).toBe(0);
    }
  });

  test("ends beyond the codes' room are not followed", async () => {
    const device = await cpu();
    const [indices, ends] = [device.tensor([4], "i32"), device.tensor([2], "i32")];
    device.write(indices, Int32Array.of(0, 1, 0, 1));
    device.write(ends, Int32Array.of(3, 1000)); // 996 pairs did not fit
    const values = filled(device, [4], 1);
    const target = device.tensor([2, 1]);
    const [residual, dValues] = [device.tensor([2, 1]), device.tensor([4])];
    const beside = filled(device, [1024], 5);
    const wDec = filled(device, [2, 1], 1);
    device.decodeSparse({
      ...{ rows: 2, indices, values, ends, wDec, bDec: null, target, residual },
      gradient: { dValues, gradScale: 1 },
    });
    expect(await device.readF32(residual)).toEqual(Float32Array.of(-3, -1));
    expect(await device.readF32(dValues)).toEqual(Float32Array.of(3, 3, 3, 1));
    expect(await device.readF32(beside)).toEqual(new Float32Array(1024).fill(5));
  });
});

describe("the decoder's constraint", () => {
  // Norms are f32 sums where those are good enough and f64 ones elsewhere.
  test.each([1e-30, 1e-12, 1, 1e12, 1e30])("rows of scale %d have a direction", async (scale) => {
    const device = await cpu();
    const tensor = (shape: number[], ...numbers: number[]) => {
      const made = device.tensor(shape);
      device.write(made, Float32Array.from(numbers));
      return made;
    };
    const shapes = { wEnc: [2, 2], bEnc: [2], wDec: [2, 2] };
    const group = <T>(make: (shape: number[]) => T) => ({
      wEnc: make(shapes.wEnc),
      bEnc: make(shapes.bEnc),
      wDec: make(shapes.wDec),
    });
    const zeros = (shape: number[]) => device.tensor(shape);
    const params = { ...group(zeros), wDec: tensor([2, 2], 0, 0, 3 * scale, 4 * scale) };
    const moments = group((shape) => ({ m: zeros(shape), v: zeros(shape) }));
    const gradients = group(zeros);
    const adam = { learningRate: 0, beta1: 0.9, beta2: 0.99, eps: 1e-8, step: 1 };
    const decoder = { projectGradient: true, unitNorm: true };
    const indices = device.tensor([1, 1], "i32");
    device.write(indices, Int32Array.of(1));
    const [values, residual] = [tensor([1, 1], 1), tensor([1, 2], 1, 0)];
    const part = { indices, values, dValues: zeros([1, 1]), residual, gradScale: 1 };
    const update = { rows: 1, x: zeros([1, 2]), bPre: null, dBPre: null, params, moments, adam };
    device.updateLatents({ ...update, parts: [part], decoder, gradients });
    // G = [-1, 0], u = [0.6, 0.8]: G - (G·u)u = [-0.64, 0.48]
    const gradient = await device.readF32(gradients.wDec);
    expect(gradient[2]).toBeCloseTo(-0.64, 6);
    expect(gradient[3]).toBeCloseTo(0.48, 6);
    device.applyLatents({ params, moments, gradients, adam, decoder, scale: null });
    const [zero, , x, y] = await device.readF32(params.wDec);
    expect([zero, x, y].map((v) => v.toFixed(6))).toEqual(["0.000000", "0.600000", "0.800000"]);
  });
});

describe("memory", () => {
  test("blocks are zero-filled, given back, and joined with their neighbours", () => {
    const memory = new SharedMemory();
    const [a, b, c] = [1000, 2000, 3000].map((bytes) => memory.allocate(bytes)!);
    new Uint8Array(memory.memory.buffer, a, 6000).fill(255);
    memory.release(a);
    memory.release(c);
    memory.release(b);
    const whole = memory.allocate(6000)!;
    expect(whole).toBe(a);
    expect(new Uint8Array(memory.memory.buffer, whole, 6000).every((byte) => byte === 0)).toBe(
      true,
    );
    expect(() => memory.release(b)).toThrow("no block");
  });

  test("addresses beyond 2 GiB work", async () => {
    const device = await cpu();
    const far = device.tensor([600, 2 ** 20]); // 2.3 GiB, of which nothing is touched
    const x = filled(device, [300, 40], 2);
    const [out, product] = [device.tensor([40]), device.tensor([300, 300])];
    sum(device, x, out);
    device.matmul({ a: x, b: x, transA: false, transB: true, out: product });
    expect(await device.readF32(out)).toEqual(new Float32Array(40).fill(600));
    expect(await device.readF32(product)).toEqual(new Float32Array(90000).fill(160));
    device.free(far);
  });

  test("what does not fit is refused with the numbers", async () => {
    const device = await cpu();
    filled(device, [1024, 1024], 1);
    expect(() => device.tensor([131072, 16384])).toThrow(UserError);
    expect(() => device.tensor([131072, 16384])).toThrow(
      /\[131072, 16384\] needs 8,192 MiB of memory, but the cpu device can hold 4,096 MiB .* 5 MiB are in use/,
    );
    const small = device.tensor([3]); // and the device goes on
    expect(await device.readF32(small)).toEqual(new Float32Array(3));
  });
});

describe("the crew", () => {
  test("an error in a worker rejects what waits and ends the device", async () => {
    const device = await openCpu({ threads: 3 }); // without the checks that would prevent it
    open.push(device);
    const out = device.tensor([3]);
    device.rowNorms({ w: undefined as never, out });
    await expect(device.readF32(out)).rejects.toThrow("columns");
    await expect(device.readF32(out)).rejects.toThrow("columns");
    expect(() => device.tensor([3])).toThrow("columns");
  });

  test("closing rejects what waits, and nothing can be asked afterwards", async () => {
    const device = await cpu();
    const x = filled(device, [512, 512], 1);
    const out = device.tensor([512, 512]);
    for (let i = 0; i < 50; i++) device.matmul({ a: x, b: x, transA: true, transB: true, out });
    const read = expect(device.readF32(out)).rejects.toThrow("the cpu device is closed");
    await device.close();
    await device.close();
    await read;
    expect(() => device.tensor([3])).toThrow("the cpu device is closed");
    expect(() => sum(device, out, x)).toThrow();
  });

  test("a thread count that makes no sense is refused", async () => {
    for (const threads of [0, -1, 1.5, NaN]) {
      await expect(openDevice("cpu", { threads })).rejects.toThrow("threads must be");
    }
  });

  test("missing kernels are reported with what to do", async () => {
    process.env.LENS_KERNELS = fileURLToPath(new URL("./nowhere", import.meta.url));
    try {
      await expect(openDevice("cpu")).rejects.toThrow(/nowhere.*npm run build/s);
    } finally {
      delete process.env.LENS_KERNELS;
    }
  });

  /** Runs a script against the built library and returns what it printed. */
  const runScript = (body: string) => {
    const module = new URL("../../dist/device/device.js", import.meta.url).href;
    const script = `import { openDevice } from ${JSON.stringify(module)};
      const device = await openDevice("cpu", { threads: 3 });
      const out = device.tensor([4, 4]), x = device.tensor([4, 4]);
      const work = () => device.matmul({ a: x, b: x, transA: false, transB: false, out });
      ${body}`;
    const args = ["--input-type=module", "--eval", script];
    const child = spawnSync(process.execPath, args, { encoding: "utf8", timeout: PATIENCE_MS });
    expect(child.stderr).toBe("");
    expect(child.signal).toBe(null);
    expect(child.status).toBe(0);
    return child.stdout.trim();
  };

  test("a process ends by itself when its device is closed in the midst of work", () => {
    runScript(
      "for (let i = 0; i < 500; i++) work(); await Promise.resolve(); await device.close();",
    );
  });

  test("a process may exit in the midst of work", () => {
    runScript(`const [a, b, c] = Array.from({ length: 3 }, () => device.tensor([900, 900]));
      for (let i = 0; i < 50; i++) device.matmul({ a, b, transA: true, transB: false, out: c });
      await new Promise((resolve) => setTimeout(resolve, 50));
      process.exit(0);`);
  });

  test("a process that forgets to close ends too, but not before a read is served", () => {
    const printed = runScript("work(); work(); console.log((await device.read(out)).length);");
    expect(printed).toBe("16");
  });

  test("idle workers use no processor time", () => {
    const used = runScript(`work(); await device.read(out);
      const before = process.cpuUsage();
      await new Promise((resolve) => setTimeout(resolve, 300));
      const { user, system } = process.cpuUsage(before);
      console.log(Math.round((user + system) / 1000)); await device.close();`);
    expect(Number(used)).toBeLessThan(150); // ms of 900 that three spinning threads would use
  });
});
