/** Values that a JSON Schema allows, and such that it does not, from a seed. */

export interface Schema {
  $ref?: string;
  type?: string | string[];
  enum?: unknown[];
  const?: unknown;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  items?: Schema;
  minItems?: number;
  maxItems?: number;
  minLength?: number;
  maxLength?: number;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
}

/** Texts that break what was not thought through. */
const TEXTS = [
  ..."a|the dog|0|-1|null|true| |\t\n|<b>|'; drop table x; --|../..|%00|{folder}|\u0000|\ud800|\u202e".split(
    "|",
  ),
  ...[
    "é",
    "e\u0301",
    "👩‍👩‍👧",
    "漢字",
    "İ",
    "\uffff",
    "__proto__",
    "constructor",
    "toString",
    "$&",
    "a".repeat(5000),
  ],
];
const NUMBERS = [
  0,
  -0,
  1,
  -1,
  2,
  5,
  63,
  64,
  0.5,
  -1.5,
  1e-9,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 53,
  1e21,
  -1e300,
  1e308,
];

export class Values {
  readonly #resolve: (ref: string) => Schema;
  #state: number;

  constructor(seed: number, resolve: (ref: string) => Schema) {
    this.#state = seed >>> 0;
    this.#resolve = resolve;
  }

  /** In [0, 1): mulberry32. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  below(count: number): number {
    return Math.floor(this.next() * count);
  }

  pick<T>(all: readonly T[]): T {
    return all[this.below(all.length)];
  }

  text(): string {
    const count = this.chance(0.8) ? 1 : this.below(4);
    return Array.from({ length: count }, () => this.pick(TEXTS)).join("");
  }

  /** Anything that JSON can say. */
  anything(depth = 0): unknown {
    switch (this.below(depth > 3 ? 4 : 6)) {
      case 0:
        return null;
      case 1:
        return this.chance(0.5);
      case 2:
        return this.pick(NUMBERS);
      case 3:
        return this.text();
      case 4:
        return Array.from({ length: this.below(4) }, () => this.anything(depth + 1));
      default:
        return this.record(() => this.anything(depth + 1));
    }
  }

  record(value: () => unknown): Record<string, unknown> {
    const entries = Array.from({ length: this.below(4) }, () => [this.text(), value()] as const);
    return Object.fromEntries(entries);
  }

  /** A value that the schema allows, but for rules of texts (patterns) and sizes of lists. */
  valid(schema: Schema, depth = 0): unknown {
    if (schema.$ref !== undefined) return this.valid(this.#resolve(schema.$ref), depth);
    if (schema.const !== undefined) return schema.const;
    if (schema.enum) return this.pick(schema.enum);
    const one = schema.anyOf ?? schema.oneOf;
    if (one) return this.valid(this.pick(one), depth);
    if (schema.allOf)
      return Object.assign({}, ...schema.allOf.map((part) => this.valid(part, depth))) as unknown;
    const type = Array.isArray(schema.type) ? this.pick(schema.type) : schema.type;
    switch (type) {
      case "null":
        return null;
      case "boolean":
        return this.chance(0.5);
      case "integer":
      case "number":
        return this.#number(schema, type === "integer");
      case "string": {
        const text = this.text().slice(0, schema.maxLength);
        return text.length >= (schema.minLength ?? 0) ? text : "a".repeat(schema.minLength!);
      }
      case "array": {
        const least = schema.minItems ?? 0;
        const count = Math.min(least + this.below(4), schema.maxItems ?? Infinity);
        return Array.from({ length: count }, () => this.valid(schema.items ?? {}, depth + 1));
      }
      case "object": {
        const fields = Object.entries(schema.properties ?? {})
          .filter(([name]) => schema.required?.includes(name) || this.chance(0.4))
          .map(([name, own]) => [name, this.valid(own, depth + 1)] as const);
        const more =
          typeof schema.additionalProperties === "object"
            ? this.record(() => this.anything(depth + 1))
            : {};
        return { ...more, ...Object.fromEntries(fields) };
      }
      default:
        return this.anything(depth);
    }
  }

  #number({ minimum, maximum, exclusiveMinimum }: Schema, isWhole: boolean): number {
    const low = minimum ?? exclusiveMinimum ?? -1000;
    const high = Math.min(maximum ?? Infinity, low + (this.chance(0.8) ? 70 : 1e6));
    const value = high - this.next() * (high - low);
    return isWhole ? Math.max(Math.ceil(low), Math.floor(value)) : value;
  }

  /** The value with something wrong or odd in it, somewhere. */
  spoiled(value: unknown): unknown {
    if (typeof value !== "object" || value === null || this.chance(0.15)) return this.anything();
    if (Array.isArray(value)) {
      const list = value as unknown[];
      if (list.length === 0 || this.chance(0.2)) return [...list, this.anything()];
      const at = this.below(list.length);
      return list.map((one, i) => (i === at ? this.spoiled(one) : one));
    }
    const entries = Object.entries(value);
    const at = this.below(entries.length + 1);
    if (at === entries.length) return { ...value, [this.text() || "more"]: this.anything() };
    if (this.chance(0.25)) return Object.fromEntries(entries.filter((_, i) => i !== at));
    return Object.fromEntries(
      entries.map(([name, one], i) => [name, i === at ? this.spoiled(one) : one]),
    );
  }
}
