import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";

import { chatRenderer } from "./chat.ts";
import { loadTokenizer } from "./tokenizer.ts";

const root = await mkdtemp(join(tmpdir(), "lens-chat-"));
afterAll(() => rm(root, { recursive: true, force: true }));

async function model(name: string, files: Record<string, string | object>): Promise<string> {
  const folder = join(root, name);
  await mkdir(folder);
  for (const [file, content] of Object.entries(files))
    await writeFile(
      join(folder, file),
      typeof content === "string" ? content : JSON.stringify(content),
    );
  return folder;
}

const CHATML =
  "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const messages = [
  { role: "system", content: "Be brief." },
  { role: "user", content: " Hi 🦊 " },
];
const chatml = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi 🦊<|im_end|>\n";

test("a template of tokenizer_config.json renders a chat, without the token at its beginning", async () => {
  const config = { bos_token: { content: "<s>" }, chat_template: CHATML };
  const render = chatRenderer(await model("config", { "tokenizer_config.json": config }));
  expect(await render(messages)).toBe(chatml);
  const spelt = { ...config, chat_template: `<s>${CHATML}` };
  expect(
    await chatRenderer(await model("spelt", { "tokenizer_config.json": spelt }))(messages),
  ).toBe(chatml);
});

test("of several templates the default one is taken, and chat_template.jinja before all", async () => {
  const config = {
    eos_token: "</s>",
    chat_template: [
      { name: "tool_use", template: "tools" },
      { name: "default", template: "{{ messages[1].role }}{{ eos_token }}" },
    ],
  };
  const several = await model("several", { "tokenizer_config.json": config });
  expect(await chatRenderer(several)(messages)).toBe("user</s>");
  const files = { "tokenizer_config.json": config, "chat_template.jinja": CHATML };
  expect(await chatRenderer(await model("jinja", files))(messages)).toBe(chatml);
});

test("a model's tokenizer renders with the template beside it", async () => {
  const fixture = new URL("../../test/fixtures/gpt2-tiny/f32/", import.meta.url);
  const tokenizerJson = await readFile(new URL("tokenizer.json", fixture), "utf8");
  const none = await loadTokenizer(await model("plain", { "tokenizer.json": tokenizerJson }));
  await expect(none.renderChat!(messages)).rejects.toThrow(/has no chat template/);
  const files = { "tokenizer.json": tokenizerJson, "chat_template.jinja": CHATML };
  const chatty = await loadTokenizer(await model("chatty", files));
  expect(await chatty.renderChat!(messages)).toBe(chatml);
});

test("a model without a template, and messages that it does not take, are refused", async () => {
  await expect(chatRenderer(await model("none", {}))(messages)).rejects.toThrow(
    /the model in .*none has no chat template/,
  );
  const strict = "{{ raise_exception('roles must alternate') }}";
  await expect(
    chatRenderer(await model("strict", { "chat_template.jinja": strict }))(messages),
  ).rejects.toThrow(
    /does not take these messages \(.*roles must alternate.*\): \[\{"role":"system"/,
  );
  const broken = await model("broken", { "chat_template.jinja": "{% for %}" });
  await expect(chatRenderer(broken)(messages)).rejects.toThrow(
    /the chat template in .*broken cannot be read/,
  );
});
