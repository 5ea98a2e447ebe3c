/**
 * Writes ONNX models (protobuf, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) by hand:
 * the few messages an inference graph needs, no dependency. `OnnxGraph` is a builder; `encode`
 * emits only what the declared outputs need, so a caller may describe a whole network and ask for
 * a part of it.
 */

/** TensorProto.DataType of the element types in use. */
const DATA_TYPES = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  bfloat16: 16,
} as const;

export type OnnxType = keyof typeof DATA_TYPES;

/** A dimension: a size, or a name for one that is known only when the graph runs. */
export type OnnxDimension = number | string;

/**
 * An attribute of a node. ONNX keeps integers and floats apart and JavaScript does not, so a
 * plain number is an integer (or an error) and a float is written `{ float: 1e-5 }`.
 */
export type OnnxAttribute = number | string | readonly number[] | { readonly float: number };

/** Where an external tensor's bytes lie; `location` is relative to the folder given to the session. */
export interface ExternalData {
  location: string;
  /** Bytes from the start of the file. */
  offset: number;
  /** Bytes. */
  length: number;
}

/** Raw bytes of an initializer, in little-endian order (that of every platform Node runs on). */
export type OnnxData = ArrayBufferView;

interface Node {
  type: string;
  domain: string;
  inputs: readonly string[];
  outputs: readonly string[];
  attributes: Readonly<Record<string, OnnxAttribute | undefined>>;
}

interface Initializer {
  dtype: OnnxType;
  dims: readonly number[];
  data: OnnxData | ExternalData;
}

interface Value {
  name: string;
  dtype: OnnxType;
  shape: readonly OnnxDimension[];
}

export class OnnxGraph {
  readonly #opset: number;
  readonly #ir: number;
  readonly #inputs: Value[] = [];
  readonly #outputs: Value[] = [];
  readonly #initializers = new Map<string, Initializer>();
  readonly #nodes: Node[] = [];
  readonly #names = new Set<string>();
  #counter = 0;

  /** `opset`: version of the default operator set (default 23). `ir`: model format (default 11). */
  constructor({ opset = 23, ir = 11 }: { opset?: number; ir?: number } = {}) {
    this.#opset = opset;
    this.#ir = ir;
  }

  /** Declares a graph input and returns its name. */
  input(name: string, dtype: OnnxType, shape: readonly OnnxDimension[]): string {
    this.#inputs.push({ name: this.#claim(name), dtype, shape });
    return name;
  }

  /** Declares the value `name`, made by some node, as a graph output. */
  output(name: string, dtype: OnnxType, shape: readonly OnnxDimension[]): string {
    this.#outputs.push({ name, dtype, shape });
    return name;
  }

  /** A tensor whose bytes are in the model itself. `data` must stay unchanged until `encode`. */
  initializer(name: string, dtype: OnnxType, dims: readonly number[], data: OnnxData): string {
    this.#initializers.set(this.#claim(name), { dtype, dims, data });
    return name;
  }

  /** A tensor whose bytes are in a file beside the model. */
  external(name: string, dtype: OnnxType, dims: readonly number[], where: ExternalData): string {
    this.#initializers.set(this.#claim(name), { dtype, dims, data: where });
    return name;
  }

  /** The int64 vector [values…], as shapes, axes and slice bounds are given. Made once per value. */
  int64(...values: number[]): string {
    return this.#constant(`int64:[${values.join(",")}]`, "int64", [values.length], () =>
      BigInt64Array.from(values, BigInt),
    );
  }

  /** An int64 scalar. Made once per value. */
  int64Scalar(value: number): string {
    return this.#constant(`int64:${value}`, "int64", [], () => BigInt64Array.of(BigInt(value)));
  }

  /** A float32 scalar. Made once per value. */
  floatScalar(value: number): string {
    return this.#constant(`float32:${value}`, "float32", [], () => Float32Array.of(value));
  }

  /**
   * Adds a node with one output and returns that output's name (`name`, or a fresh one). An input
   * "" is an optional input left out. `domain` is "" for ONNX itself, "com.microsoft" for ONNX
   * Runtime's own operators.
   */
  op(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, OnnxAttribute | undefined>> = {},
    { name, domain }: { name?: string; domain?: string } = {},
  ): string {
    return this.ops(type, inputs, attributes, { outputs: name ?? 1, domain })[0];
  }

  /** Like `op`, for several outputs: a number of fresh ones, or their names ("" for one left out). */
  ops(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, OnnxAttribute | undefined>> = {},
    { outputs, domain = "" }: { outputs: number | string | readonly string[]; domain?: string },
  ): string[] {
    const names =
      typeof outputs === "number"
        ? Array.from({ length: outputs }, () => this.#fresh(type.toLowerCase()))
        : [outputs].flat().map((name) => (name === "" ? "" : this.#claim(name)));
    this.#nodes.push({ type, domain, inputs, outputs: names, attributes });
    return names;
  }

  /** The model as protobuf bytes: all inputs and outputs, and the nodes and initializers they need. */
  encode(): Uint8Array<ArrayBuffer> {
    const { nodes, used } = this.#reachable();
    const graph = new Message();
    for (const node of nodes) graph.message(1, nodeMessage(node));
    graph.text(2, "lens");
    for (const [name, tensor] of this.#initializers) {
      if (used.has(name)) graph.message(5, tensorMessage(name, tensor));
    }
    for (const value of this.#inputs) graph.message(11, valueMessage(value));
    for (const value of this.#outputs) graph.message(12, valueMessage(value));

    const model = new Message().int(1, this.#ir).text(2, "latent-lens").message(7, graph);
    model.message(8, new Message().text(1, "").int(2, this.#opset));
    for (const domain of new Set(nodes.map((node) => node.domain))) {
      if (domain !== "") model.message(8, new Message().text(1, domain).int(2, 1));
    }
    return model.bytes();
  }

  /** The nodes that some output depends on, in their order, and every name these read. */
  #reachable(): { nodes: Node[]; used: Set<string> } {
    const used = new Set(this.#outputs.map((value) => value.name));
    const nodes: Node[] = [];
    // Nodes are added after what they read, so one sweep from the end finds all.
    for (const node of this.#nodes.toReversed()) {
      if (!node.outputs.some((name) => used.has(name))) continue;
      nodes.push(node);
      for (const name of node.inputs) used.add(name);
    }
    return { nodes: nodes.reverse(), used };
  }

  #constant(key: string, dtype: OnnxType, dims: readonly number[], data: () => OnnxData): string {
    if (!this.#initializers.has(key)) this.initializer(key, dtype, dims, data());
    return key;
  }

  /** A name that nothing in the graph has yet. */
  #fresh(prefix: string): string {
    let name: string;
    do name = `${prefix}_${this.#counter++}`;
    while (this.#names.has(name));
    return this.#claim(name);
  }

  #claim(name: string): string {
    if (this.#names.has(name)) throw new Error(`the ONNX graph already has a value named ${name}`);
    this.#names.add(name);
    return name;
  }
}

function nodeMessage(node: Node): Message {
  const message = new Message();
  for (const name of node.inputs) message.text(1, name);
  for (const name of node.outputs) message.text(2, name);
  message.text(3, `${node.type}:${node.outputs[0]}`).text(4, node.type);
  for (const [name, attribute] of Object.entries(node.attributes)) {
    if (attribute !== undefined) message.message(5, attributeMessage(name, attribute));
  }
  return node.domain === "" ? message : message.text(7, node.domain);
}

/** AttributeProto; field 20 is the type: FLOAT 1, INT 2, STRING 3, INTS 7. */
function attributeMessage(name: string, attribute: OnnxAttribute): Message {
  const message = new Message().text(1, name);
  if (typeof attribute === "string") return message.text(4, attribute).int(20, 3);
  if (typeof attribute === "number") return message.int(3, attribute).int(20, 2);
  if ("float" in attribute) return message.float(2, attribute.float).int(20, 1);
  for (const value of attribute) message.int(8, value);
  return message.int(20, 7);
}

function tensorMessage(name: string, { dtype, dims, data }: Initializer): Message {
  const message = new Message();
  for (const size of dims) message.int(1, size);
  message.int(2, DATA_TYPES[dtype]).text(8, name);
  if (ArrayBuffer.isView(data)) {
    return message.raw(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  for (const key of ["location", "offset", "length"] as const) {
    message.message(13, new Message().text(1, key).text(2, String(data[key])));
  }
  return message.int(14, 1); // data_location = EXTERNAL
}

function valueMessage({ name, dtype, shape }: Value): Message {
  const dims = new Message();
  for (const size of shape) {
    const dimension = new Message();
    dims.message(1, typeof size === "string" ? dimension.text(2, size) : dimension.int(1, size));
  }
  const tensor = new Message().int(1, DATA_TYPES[dtype]).message(2, dims);
  return new Message().text(1, name).message(2, new Message().message(1, tensor));
}

/** A protobuf message under construction: chunks, joined once at the end. */
class Message {
  readonly #chunks: Uint8Array[] = [];
  #length = 0;

  int(field: number, value: number): this {
    if (!Number.isSafeInteger(value)) throw new Error(`ONNX integer expected, got ${value}`);
    return this.#varint(field << 3).#varint(value);
  }

  float(field: number, value: number): this {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    return this.#varint((field << 3) | 5).#append(bytes);
  }

  text(field: number, value: string): this {
    return this.raw(field, new TextEncoder().encode(value));
  }

  raw(field: number, bytes: Uint8Array): this {
    return this.#varint((field << 3) | 2)
      .#varint(bytes.length)
      .#append(bytes);
  }

  message(field: number, message: Message): this {
    this.#varint((field << 3) | 2).#varint(message.#length);
    for (const chunk of message.#chunks) this.#append(chunk);
    return this;
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const joined = new Uint8Array(this.#length);
    let offset = 0;
    for (const chunk of this.#chunks) {
      joined.set(chunk, offset);
      offset += chunk.length;
    }
    return joined;
  }

  /** Base 128, low group first; a negative number as its 64-bit two's complement (ten bytes). */
  #varint(value: number): this {
    const bytes: number[] = [];
    let rest = BigInt.asUintN(64, BigInt(value));
    while (rest > 127n) {
      bytes.push(Number(rest & 127n) | 128);
      rest >>= 7n;
    }
    bytes.push(Number(rest));
    return this.#append(Uint8Array.from(bytes));
  }

  #append(bytes: Uint8Array): this {
    this.#chunks.push(bytes);
    this.#length += bytes.length;
    return this;
  }
}
