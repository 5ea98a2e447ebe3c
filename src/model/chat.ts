/** Conversations as a model reads them: rendered through the chat template in its folder. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { messageOf, UserError } from "../error.ts";
import type { Message } from "./data/records.ts";

export type RenderChat = (messages: Message[]) => Promise<string>;

/** Special tokens that templates may name, besides the one at the beginning. */
const TOKENS = ["eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

/**
 * What renders conversations for the model in `folder`: chat_template.jinja, or else `chat_template`
 * of tokenizer_config.json (of several, the one called default). Nothing is read before the first
 * conversation. The beginning-of-sequence token is left out, where the template names it and where
 * it spells it out: the setting `bos` says where it goes.
 * @throws UserError (when it renders) if there is no template, or the template refuses the messages.
 */
export function chatRenderer(folder: string): RenderChat {
  let loading: Promise<(messages: Message[]) => string> | undefined;
  return async (messages) => {
    loading ??= loadTemplate(folder);
    return (await loading)(messages);
  };
}

async function loadTemplate(folder: string): Promise<(messages: Message[]) => string> {
  const config = await readConfig(join(folder, "tokenizer_config.json"));
  const source =
    (await readText(join(folder, "chat_template.jinja"))) ?? defaultOf(config.chat_template);
  if (source === undefined)
    throw new UserError(
      `the text holds messages of a chat, and the model in ${folder} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): choose a field that holds text, or a model made for chats.`,
    );
  const { Template } = await import("@huggingface/jinja");
  let template: InstanceType<typeof Template>;
  try {
    template = new Template(source);
  } catch (error) {
    throw new UserError(`the chat template in ${folder} cannot be read: ${messageOf(error)}`);
  }
  const named = TOKENS.flatMap((name) => {
    const token = tokenText(config[name]);
    return token === undefined ? [] : [[name, token] as const];
  });
  const bos = tokenText(config.bos_token);
  return (messages) => {
    let text: string;
    try {
      text = template.render({
        ...{ messages, ...Object.fromEntries(named), bos_token: "" },
        add_generation_prompt: false,
      });
    } catch (error) {
      const seen = JSON.stringify(messages).slice(0, 120);
      throw new UserError(
        `the chat template in ${folder} does not take these messages (${messageOf(error)}): ${seen}`,
      );
    }
    return bos && text.startsWith(bos) ? text.slice(bos.length) : text;
  };
}

/** A token is written as it is spelt, or as an object with its spelling. */
function tokenText(token: unknown): string | undefined {
  const text = (token as { content?: unknown } | null | undefined)?.content ?? token;
  return typeof text === "string" ? text : undefined;
}

function defaultOf(templates: unknown): string | undefined {
  if (typeof templates === "string") return templates;
  if (!Array.isArray(templates)) return undefined;
  const named = templates as { name?: unknown; template?: unknown }[];
  const { template } = named.find(({ name }) => name === "default") ?? {};
  return typeof template === "string" ? template : undefined;
}

async function readConfig(path: string): Promise<Record<string, unknown>> {
  const text = await readText(path);
  if (text === undefined) return {};
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch (error) {
    throw new UserError(`${path} is not JSON (${messageOf(error)}): fetch it again.`);
  }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
