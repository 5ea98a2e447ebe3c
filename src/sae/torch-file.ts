/**
 * Writes the `.pt` files that `torch.load(path, weights_only=True)` opens: a ZIP of stored entries
 * with a pickle (protocol 2) of the value's structure and one raw little-endian file per tensor.
 * Layout: torch/serialization.py, `_save`; allowed pickle opcodes: torch/_weights_only_unpickler.py.
 */
import { zipSync, type Zippable } from "fflate";
import { UserError } from "../error.ts";

/** A float32 tensor, contiguous, row by row. */
export class TorchTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;

  constructor(shape: readonly number[], data: Float32Array) {
    const size = shape.reduce((product, n) => product * n, 1);
    if (size !== data.length)
      throw new RangeError(`shape [${shape.join(", ")}] does not fit ${data.length} numbers`);
    this.shape = shape;
    this.data = data;
  }
}

/** What a file may hold. A Map becomes a collections.OrderedDict, an object a dict, undefined is left out. */
export type TorchValue =
  | null
  | undefined
  | boolean
  | number
  | string
  | TorchTensor
  | TorchValue[]
  | Map<string, TorchValue>
  | { [key: string]: TorchValue };

/** ZIP without its 64-bit extension ends here. */
const MAX_BYTES = 2 ** 32 - 2 ** 20;

/** The file's bytes, the same for the same value. @throws UserError when it would exceed 4 GiB. */
export function torchFile(value: TorchValue): Uint8Array {
  const pickler = new Pickler();
  const pickle = pickler.pickle(value);
  const bytes = pickler.tensors.reduce((sum, { data }) => sum + data.byteLength, pickle.length);
  if (bytes > MAX_BYTES)
    throw new UserError(
      `a .pt file can hold at most 4 GiB; this one would need ${bytes} bytes. Use the safetensors folder instead.`,
    );
  const entries: Zippable = {
    "archive/data.pkl": pickle,
    "archive/byteorder": ascii("little"),
  };
  for (const [key, { data }] of pickler.tensors.entries())
    entries[`archive/data/${key}`] = littleEndian(data);
  entries["archive/version"] = ascii("3\n");
  return zipSync(entries, { level: 0, mtime: new Date(1980, 0, 1) });
}

class Pickler {
  readonly tensors: TorchTensor[] = [];
  #out = new Uint8Array(1024);
  #length = 0;

  pickle(value: TorchValue): Uint8Array {
    this.#bytes(0x80, 2); // PROTO 2
    this.#value(value);
    this.#op("."); // STOP
    return this.#out.slice(0, this.#length);
  }

  #value(value: TorchValue): void {
    if (value === null || value === undefined) this.#op("N");
    else if (typeof value === "boolean")
      this.#bytes(value ? 0x88 : 0x89); // NEWTRUE, NEWFALSE
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "string") this.#string(value);
    else if (value instanceof TorchTensor) this.#tensor(value);
    else if (Array.isArray(value)) {
      this.#op("](");
      for (const item of value) this.#value(item);
      this.#op("e"); // APPENDS
    } else if (value instanceof Map) {
      this.#orderedDict();
      this.#items([...value]);
    } else {
      this.#op("}");
      this.#items(Object.entries(value));
    }
  }

  #items(items: [string, TorchValue][]): void {
    this.#op("(");
    for (const [key, item] of items) {
      if (item === undefined) continue;
      this.#string(key);
      this.#value(item);
    }
    this.#op("u"); // SETITEMS
  }

  /** torch._utils._rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, no hooks) */
  #tensor({ shape, data }: TorchTensor): void {
    const key = this.tensors.length;
    this.tensors.push(new TorchTensor(shape, data));
    const strides = shape.map((_, i) => shape.slice(i + 1).reduce((product, n) => product * n, 1));
    this.#global("torch._utils", "_rebuild_tensor_v2");
    this.#op("((");
    this.#string("storage");
    this.#global("torch", "FloatStorage");
    this.#string(String(key));
    this.#string("cpu");
    this.#number(data.length);
    this.#op("tQ"); // TUPLE, BINPERSID
    this.#number(0);
    this.#tuple(shape);
    this.#tuple(strides);
    this.#bytes(0x89);
    this.#orderedDict();
    this.#op("tR"); // TUPLE, REDUCE
  }

  #tuple(numbers: readonly number[]): void {
    this.#op("(");
    for (const n of numbers) this.#number(n);
    this.#op("t");
  }

  #orderedDict(): void {
    this.#global("collections", "OrderedDict");
    this.#op(")R");
  }

  #global(module: string, name: string): void {
    this.#op(`c${module}\n${name}\n`);
  }

  #number(value: number): void {
    const bytes = new Uint8Array(8);
    const view = new DataView(bytes.buffer);
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      view.setFloat64(0, value); // BINFLOAT is big-endian
      this.#op("G");
      this.#bytes(...bytes);
    } else if (value === (value | 0)) {
      view.setInt32(0, value, true);
      this.#op("J");
      this.#bytes(...bytes.subarray(0, 4));
    } else {
      view.setBigInt64(0, BigInt(value), true);
      this.#bytes(0x8a, 8, ...bytes); // LONG1
    }
  }

  #string(text: string): void {
    const utf8 = new TextEncoder().encode(text);
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, utf8.length, true);
    this.#op("X");
    this.#append(length);
    this.#append(utf8);
  }

  #op(text: string): void {
    this.#append(ascii(text));
  }

  #bytes(...bytes: number[]): void {
    this.#append(Uint8Array.from(bytes));
  }

  #append(bytes: Uint8Array): void {
    if (this.#length + bytes.length > this.#out.length) {
      const larger = new Uint8Array(Math.max(this.#out.length * 2, this.#length + bytes.length));
      larger.set(this.#out.subarray(0, this.#length));
      this.#out = larger;
    }
    this.#out.set(bytes, this.#length);
    this.#length += bytes.length;
  }
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (c) => c.charCodeAt(0));
}

/** Every platform that JavaScript engines are built for today is little-endian. */
function littleEndian(data: Float32Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
