/** What is wrong with a config, in words: the field, what it must be, the value seen, the nearest valid name. */
import { z } from "zod";

import { nearestName } from "./error.ts";
import { isRecord } from "./is-record.ts";

/** One line for each problem of `issue`. @param given what was checked against `schema`, the config's `section`. */
export function describeIssue(
  schema: z.ZodType,
  given: unknown,
  section: string,
  issue: z.core.$ZodIssue,
): string[] {
  const path = [section, ...issue.path.map(String)].filter(Boolean).join(".");
  if (issue.code === "unrecognized_keys") {
    const { known, elsewhere } = keysAt(schema, given, issue.path);
    return issue.keys.map((key) => {
      const full = [path, key].filter(Boolean).join(".");
      if (elsewhere.has(key)) return `${full} does not exist here; ${elsewhere.get(key)}`;
      const near = nearestName(key, known);
      const hint = near ? `did you mean ${near}?` : `known keys: ${known.join(", ")}`;
      return `unknown key ${full}; ${hint}`;
    });
  }
  const seen = valueAt(given, issue.path);
  const requirement = requirementOf(issue, seen);
  if (seen === undefined) return [`${path} is missing; it ${requirement}`];
  return [`${path || "the config"} ${requirement}; got ${JSON.stringify(seen)}`];
}

/** What a field must be, in words. */
function requirementOf(issue: z.core.$ZodIssue, seen: unknown): string {
  const names: Record<string, string> = {
    int: "a whole number",
    number: "a number",
    string: "text",
    boolean: "true or false",
    object: "a section of settings",
    record: "a section of settings",
  };
  switch (issue.code) {
    case "invalid_type":
      return `must be ${names[issue.expected] ?? issue.expected}`;
    case "too_small":
      return `must be ${issue.inclusive ? "at least" : "more than"} ${issue.minimum}`;
    case "too_big":
      return `must be ${issue.inclusive ? "at most" : "less than"} ${issue.maximum}`;
    case "invalid_value":
    case "invalid_union": {
      if (issue.code === "invalid_union" && !("options" in issue)) return issue.message;
      const allowed = "values" in issue ? issue.values : "options" in issue ? issue.options : [];
      const options = (allowed as unknown[]).map(String);
      const near = nearestName(String(seen), options);
      return `must be one of ${options.join(", ")}${near ? ` (did you mean ${near}?)` : ""}`;
    }
    default:
      return issue.message;
  }
}

/** Keys that are allowed at `path`, and those that only another variant of the section has, with what to say of them. */
function keysAt(
  schema: z.ZodType,
  values: unknown,
  path: PropertyKey[],
): { known: string[]; elsewhere: Map<string, string> } {
  const elsewhere = new Map<string, string>();
  let current: z.ZodType | undefined = schema;
  let value = values;
  for (const key of [...path, undefined]) {
    current = unwrap(current);
    if (current instanceof z.ZodDiscriminatedUnion) {
      const { discriminator } = current.def;
      const tag = isRecord(value) ? value[discriminator] : undefined;
      const variants = current.options as z.ZodObject[];
      const tagOf = (variant: z.ZodObject) => (variant.shape[discriminator] as z.ZodLiteral).value;
      const owners = new Map<string, string[]>();
      for (const variant of variants)
        for (const name of Object.keys(variant.shape))
          owners.set(name, [...(owners.get(name) ?? []), String(tagOf(variant))]);
      for (const [name, tags] of owners)
        elsewhere.set(
          name,
          `it belongs to ${discriminator} ${tags.join(" or ")}, not ${String(tag)}`,
        );
      current = variants.find((variant) => tagOf(variant) === tag);
    }
    if (!(current instanceof z.ZodObject)) break;
    if (key === undefined) return { known: Object.keys(current.shape), elsewhere };
    current = (current.shape as Record<string, z.ZodType>)[String(key)];
    value = isRecord(value) ? value[String(key)] : undefined;
  }
  return { known: [], elsewhere };
}

function unwrap(schema: z.ZodType | undefined): z.ZodType | undefined {
  while (schema instanceof z.ZodDefault || schema instanceof z.ZodOptional)
    schema = schema.unwrap() as z.ZodType;
  return schema;
}

function valueAt(values: unknown, path: PropertyKey[]): unknown {
  let value = values;
  for (const key of path)
    value =
      typeof value === "object" && value !== null
        ? (value as Record<PropertyKey, unknown>)[key]
        : undefined;
  return value;
}
