/** A record of any kind of file → a document: which field is the text, and what else is kept. */
import type { Span } from "../../corpus/index.ts";
import { UserError } from "../../error.ts";

export interface Document {
  /** Names the document within its source. */
  id: string;
  text: string;
  /** Labels, where the source has them: stretches [start, end) of the text that show a concept. */
  spans?: Span[];
}

/** A turn of a conversation; what else a record says of it (tool calls) goes to the template too. */
export interface Message {
  role: string;
  content?: unknown;
  [name: string]: unknown;
}

export interface RecordOptions {
  /** The field that holds the text, or a list of messages (default "text"); dots lead into nested ones. */
  field?: string;
  /** Renders messages as the model reads them: its tokenizer's `renderChat`. */
  renderChat?: (messages: Message[]) => Promise<string>;
}

export const DEFAULT_FIELD = "text";

/** Where a record comes from. */
export interface Place {
  /** For messages: "a.jsonl, line 3". */
  where: string;
  /** Of the document, when the record has none. */
  id: string;
}

/**
 * The document of a record; a field that is null is an empty text.
 * @throws UserError naming the record, and its fields when the one asked for is missing.
 */
export async function toDocument(
  record: Record<string, unknown>,
  { where, id: ownId }: Place,
  { field = DEFAULT_FIELD, renderChat }: RecordOptions,
): Promise<Document> {
  const fail = (problem: string) => new UserError(`${where}: ${problem}.`);
  const value = valueAt(record, field);
  if (value === undefined) {
    const types = Object.entries(record).map(([name, v]) => ({ name, type: typeOf(v) }));
    throw fail(missingField(field, types));
  }
  let text = value ?? "";
  if (Array.isArray(text)) {
    const messages = text.map((item) => toMessage(item, field, fail));
    if (!renderChat)
      throw fail(
        `the field "${field}" is a list of messages, and no model is at hand whose chat template could render it`,
      );
    text = await renderChat(messages);
  }
  if (typeof text !== "string")
    throw fail(
      `the field "${field}" is not a string but ${withArticle(typeOf(text))}: choose one that holds text, or messages of a chat`,
    );
  const { id, spans } = record;
  const named = ["string", "number", "bigint"].includes(typeof id);
  const document: Document = { id: named ? String(id) : ownId, text };
  if (spans != null) document.spans = checkSpans(spans, text, fail);
  return document;
}

/** What is said when a field is not there: the fields that are, and which of them is probably meant. */
export function missingField(
  field: string,
  fields: readonly { name: string; type: string }[],
): string {
  const all = fields.map(({ name, type }) => `${name} (${type})`).join(", ") || "none";
  const texts = fields.filter(({ type }) => type === "string");
  const chat = fields.find(({ name, type }) => CHATS.includes(name) && type === "list");
  const hint = chat
    ? `; for the chat in it set field to ${chat.name}`
    : texts.length === 1
      ? `; the only one with text is ${texts[0].name}: set field to ${texts[0].name}`
      : "";
  return `the field "${field}" is missing; there are: ${all}${hint}`;
}

const CHATS = ["messages", "conversations", "conversation"];

/** The value of a field: of one that is called so, dots and all, or else of a nested one. */
function valueAt(record: Record<string, unknown>, field: string): unknown {
  if (Object.hasOwn(record, field)) return record[field];
  let value: unknown = record;
  for (const name of field.split(".")) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, name))
      return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}

function typeOf(value: unknown): string {
  if (Array.isArray(value)) return "list";
  return value === null ? "null" : typeof value;
}

function withArticle(type: string): string {
  return `${type === "object" ? "an" : "a"} ${type}`;
}

/** Names of the roles in ShareGPT's records, {from, value}. */
const ROLES: Record<string, string> = { human: "user", gpt: "assistant" };

function toMessage(item: unknown, field: string, fail: (problem: string) => UserError): Message {
  const message = (item ?? {}) as Record<string, unknown>;
  if (typeof message.role === "string") return message as Message;
  const { from, value } = message;
  if (typeof from === "string" && value !== undefined)
    return { role: ROLES[from] ?? from, content: value };
  const seen = JSON.stringify(item).slice(0, 80);
  throw fail(
    `"${field}" is a list, but ${seen} is no message: each must be {"role": …, "content": …}`,
  );
}

function checkSpans(value: unknown, text: string, fail: (problem: string) => UserError): Span[] {
  if (!Array.isArray(value)) throw fail('"spans" is not a list');
  return value.map((item: unknown) => {
    const { concept, start, end } = (item ?? {}) as Record<string, unknown>;
    const inside =
      Number.isSafeInteger(start) &&
      Number.isSafeInteger(end) &&
      (start as number) >= 0 &&
      (start as number) < (end as number) &&
      (end as number) <= text.length;
    if (typeof concept === "string" && inside) {
      return { concept, start: start as number, end: end as number };
    }
    throw fail(
      `span ${JSON.stringify(item)} is not {concept, start, end} inside a text of ${text.length} ` +
        "characters",
    );
  });
}
