/**
 * An OpenAI-compatible endpoint (llama.cpp, Ollama, vLLM, hosted ones) as something to ask: with a cache on
 * disk, so that what was answered is never asked again; a limit of requests at a time; retries that
 * wait as long as the server says. An answer that never came, or that could not be read, is missing:
 * it is never taken for a right or wrong one.
 */
import type OpenAI from "openai";
import { messageOf, UserError } from "../error.ts";
import { Answers } from "./answers.ts";

export interface EndpointOptions {
  /** Base URL, up to and with /v1. */
  url: string;
  model: string;
  /** Sent to the endpoint and kept nowhere. */
  key?: string | undefined;
  /** Folder of the answers. */
  cache: string;
  /** Requests at a time. */
  concurrency?: number;
  /** After the first attempt. */
  retries?: number;
  /** Of an attempt; of a stream, the longest silence. */
  timeoutMs?: number;
  /** Wait before the first retry, twice as long before each further one, unless the server says how long. */
  backoffMs?: number;
  signal?: AbortSignal;
  /** Nothing is sent: what would be is counted. */
  dry?: boolean;
}

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface Question<T> {
  messages: Message[];
  /** @throws Unreadable when the text is no answer to the question. */
  parse: (text: string) => T;
  /** What to say after an answer that could not be read. */
  reminder: string;
  /** Tokens that an answer is likely to have. */
  expectedTokens: number;
  /** Called with the text so far, which then comes as a stream. */
  onText?: (text: string) => void;
  /** What to go on with where nothing is sent. */
  placeholder?: T;
}

export type Answer<T> = { value: T } | { missing: string };

/** Thrown by `parse` for a text that is no answer. */
export class Unreadable extends Error {
  override name = "Unreadable";
}

/** How an attempt failed. */
class Failure extends Error {
  override name = "Failure";
  /** What the server asks to wait. */
  retryAfterMs?: number | undefined;
  /** Nobody answered. */
  isDown = false;
  /** Another attempt would end in the same way. */
  isFinal = false;
}

const MAX_ANSWER_TOKENS = 2000;
const LONGEST_WAIT_MS = 5 * 60_000;
const LONGEST_BACKOFF_MS = 30_000;
/** Requests in a row that nobody answered, for each that may be under way, after which no more are sent. */
const DOWN_AFTER = 2;

export class Endpoint {
  readonly url: string;
  readonly model: string;
  /** What was sent, answered from the cache, sent again, and had no answer in the end. Tokens are estimates (4 characters each). */
  readonly counts = {
    sent: 0,
    cached: 0,
    retried: 0,
    missing: 0,
    promptTokens: 0,
    answerTokens: 0,
  };
  readonly #options: Required<Omit<EndpointOptions, "key" | "signal" | "url" | "model" | "cache">>;
  readonly #signal: AbortSignal | undefined;
  readonly #secret: string | undefined;
  readonly #client: OpenAI;
  readonly #answers: Answers;
  #free: number;
  readonly #waiting: (() => void)[] = [];
  #unanswered = 0;
  #streams = true;
  /** Names of parameters that this model wants otherwise. */
  #limitName: "max_tokens" | "max_completion_tokens" = "max_tokens";
  #hasTemperature = true;

  private constructor(client: OpenAI, answers: Answers, options: EndpointOptions) {
    const { url, model, key, signal, concurrency = 4, retries = 4 } = options;
    const { timeoutMs = 120_000, backoffMs = 1000, dry = false } = options;
    this.url = url;
    this.model = model;
    this.#secret = key;
    this.#signal = signal;
    this.#client = client;
    this.#answers = answers;
    this.#options = { concurrency, retries, timeoutMs, backoffMs, dry };
    this.#free = concurrency;
  }

  /** @throws UserError for what is no http(s) URL, or holds a password. */
  static async open(options: EndpointOptions): Promise<Endpoint> {
    let url: URL;
    try {
      url = new URL(options.url);
    } catch {
      throw new UserError(
        `endpoint must be a URL such as http://localhost:8080/v1; got ${options.url}`,
      );
    }
    if (url.protocol !== "http:" && url.protocol !== "https:")
      throw new UserError(`endpoint must begin with http:// or https://; got ${url.protocol}//…`);
    if (url.username || url.password || /[?&]\w*key=/i.test(url.search))
      throw new UserError(
        "endpoint must not hold a password or key: put it in an environment variable",
      );
    const { default: Client } = await import("openai");
    const client = new Client({
      baseURL: options.url,
      // The client wants one; servers without keys do not look at it.
      apiKey: options.key ?? "none",
      // The environment's, which are for another service.
      ...{ organization: null, project: null },
      ...{ maxRetries: 0, timeout: 2 ** 31 - 1, logLevel: "off" },
    });
    const answers = await Answers.in(options.cache, options.url, options.model);
    return new Endpoint(client, answers, options);
  }

  /** Asks, and asks once more with a reminder when the answer cannot be read. @throws UserError when the endpoint refuses everybody. */
  async ask<T>(question: Question<T>): Promise<Answer<T>> {
    const { messages, parse, reminder } = question;
    let unread = "";
    for (const asked of [messages, undefined]) {
      const sent: Message[] = asked ?? [
        ...messages,
        { role: "assistant", content: unread },
        { role: "user", content: reminder },
      ];
      const body = { messages: sent, temperature: 0, max_tokens: MAX_ANSWER_TOKENS };
      const key = this.#answers.keyOf("chat", body);
      const stored = await this.#answers.get(key);
      if (stored?.text !== undefined) {
        this.counts.cached++;
        return { value: parse(stored.text) };
      }
      this.#count(sent, question.expectedTokens);
      if (this.#options.dry)
        return question.placeholder === undefined ? { missing: "nothing is sent" } : { value: question.placeholder }; // prettier-ignore
      const text = await this.#persist((signal, alive) =>
        this.#chat(sent, signal, alive, question.onText),
      );
      if (typeof text !== "string") return text;
      try {
        // Reasoning models think aloud first.
        const answer = text.replace(/^[^]*<\/think>/, "").trim();
        const value = parse(answer);
        await this.#answers.set(key, { text: answer });
        return { value };
      } catch (error) {
        if (!(error instanceof Unreadable)) throw error;
        unread = text;
      }
    }
    this.counts.missing++;
    return { missing: `not readable, twice: ${JSON.stringify(unread.slice(0, 80))}` };
  }

  /** Embeddings of texts. @throws UserError when the endpoint has none. */
  async embed(texts: string[]): Promise<Answer<number[][]>> {
    const key = this.#answers.keyOf("embeddings", texts);
    const stored = await this.#answers.get(key);
    if (stored?.vectors) {
      this.counts.cached++;
      return { value: stored.vectors };
    }
    this.#count(
      texts.map((content) => ({ role: "user" as const, content })),
      0,
    );
    if (this.#options.dry) return { missing: "nothing is sent" };
    const vectors = await this.#persist(async (signal) => {
      const { data } = await this.#client.embeddings.create(
        { model: this.model, input: texts, encoding_format: "float" },
        { signal },
      );
      const found = Array.isArray(data) ? data.map(({ embedding }) => embedding) : [];
      if (found.length !== texts.length || found.some((one) => !Array.isArray(one)))
        throw new Failure("what it answers to /embeddings is not the protocol");
      return found;
    });
    if (!Array.isArray(vectors)) return vectors;
    await this.#answers.set(key, { vectors });
    return { value: vectors };
  }

  #count(messages: readonly Message[], expectedTokens: number): void {
    this.counts.sent++;
    for (const { content } of messages)
      this.counts.promptTokens += Math.ceil(content.length / 4) + 4;
    this.counts.answerTokens += expectedTokens;
  }

  /** One attempt at a chat completion. */
  async #chat(
    messages: Message[],
    signal: AbortSignal,
    alive: () => void,
    onText?: (text: string) => void,
  ): Promise<string> {
    const body = {
      ...{ model: this.model, messages, [this.#limitName]: MAX_ANSWER_TOKENS },
      ...(this.#hasTemperature && { temperature: 0 }),
    };
    const { completions } = this.#client.chat;
    if (!onText || !this.#streams) {
      const answer = await completions.create(body, { signal });
      const content = (answer as Partial<typeof answer>).choices?.[0]?.message?.content;
      if (typeof content !== "string")
        throw new Failure("what it answers to /chat/completions is not the protocol");
      return content;
    }
    let text = "";
    let isWhole = false;
    let isStream = false;
    for await (const chunk of await completions.create({ ...body, stream: true }, { signal })) {
      alive();
      isStream = true;
      const [choice] = (chunk as Partial<typeof chunk>).choices ?? [];
      text += choice?.delta?.content ?? "";
      if (choice?.finish_reason) isWhole = true;
      onText(text);
    }
    if (!isStream) {
      // It takes `stream` for granted, or does not know it.
      this.#streams = false;
      return this.#chat(messages, signal, alive);
    }
    if (!isWhole) throw new Failure("the stream broke off");
    return text;
  }

  /** `attempt` until it succeeds, the retries are used up, or nobody is there. */
  async #persist<T>(
    attempt: (signal: AbortSignal, alive: () => void) => Promise<T>,
  ): Promise<T | { missing: string }> {
    const { concurrency, retries, timeoutMs, backoffMs } = this.#options;
    let failure: Failure | undefined;
    await this.#turn();
    try {
      for (let n = 0; n <= retries; n++) {
        if (this.#unanswered >= DOWN_AFTER * concurrency) break;
        if (n > 0) {
          this.counts.retried++;
          const backoff = Math.min(backoffMs * 2 ** (n - 1), LONGEST_BACKOFF_MS);
          await this.#sleep(Math.min(failure?.retryAfterMs ?? backoff * (0.75 + 0.25 * Math.random()), LONGEST_WAIT_MS)); // prettier-ignore
        }
        this.#signal?.throwIfAborted();
        const silence = new AbortController();
        let timer = setTimeout(() => silence.abort(), timeoutMs);
        const alive = () => {
          clearTimeout(timer);
          timer = setTimeout(() => silence.abort(), timeoutMs);
        };
        const signal = this.#signal
          ? AbortSignal.any([this.#signal, silence.signal])
          : silence.signal;
        try {
          const value = await attempt(signal, alive);
          this.#unanswered = 0;
          return value;
        } catch (error) {
          this.#signal?.throwIfAborted();
          failure = silence.signal.aborted
            ? Object.assign(new Failure(`no answer in ${timeoutMs / 1000} s`), { isDown: true })
            : this.#failureOf(error);
          if (failure.isFinal) break;
        } finally {
          clearTimeout(timer);
        }
      }
    } finally {
      this.#done();
    }
    if (failure?.isDown) this.#unanswered++;
    else if (failure) this.#unanswered = 0;
    this.counts.missing++;
    return { missing: failure?.message ?? `${this.url} is not there` };
  }

  /** @throws UserError for what no further request could mend. */
  #failureOf(error: unknown): Failure {
    if (error instanceof Failure) return error;
    const { status, headers } = error as { status?: number; headers?: Headers };
    let message = messageOf(error);
    if (this.#secret) message = message.replaceAll(this.#secret, "…");
    if (status === undefined) {
      // The client's error wraps that of fetch, which wraps that of the socket.
      let innermost = error;
      while (innermost instanceof Error && innermost.cause) innermost = innermost.cause;
      const reason = innermost === error ? undefined : messageOf(innermost);
      return Object.assign(new Failure(reason ? `${message} (${reason})` : message), {
        isDown: true,
      });
    }
    if (status === 401 || status === 403)
      throw new UserError(
        `${this.url} refuses the key (${message}); give one in the environment variable that --key-from names`,
      );
    if (status === 404 || status === 405)
      throw new UserError(
        `${this.url} knows no such model or path (${message}); model is ${this.model}: see what GET ${this.url}/models lists`,
      );
    if (status === 400 && this.#adapt(message)) return new Failure(message);
    const isBusy = status === 408 || status === 409 || status === 425 || status === 429;
    return Object.assign(new Failure(message), {
      retryAfterMs: retryAfter(headers),
      isFinal: status < 500 && !isBusy,
    });
  }

  /** Newer hosted models want other parameters; true when there is something else to try. */
  #adapt(message: string): boolean {
    if (this.#limitName === "max_tokens" && message.includes("max_completion_tokens")) {
      this.#limitName = "max_completion_tokens";
      return true;
    }
    if (this.#hasTemperature && message.includes("temperature")) {
      this.#hasTemperature = false;
      return true;
    }
    return false;
  }

  /** Waits until fewer than `concurrency` requests are under way. */
  async #turn(): Promise<void> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #done(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }

  async #sleep(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#signal?.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#signal?.addEventListener("abort", done);
    });
  }
}

/** What a server asks to wait: seconds or a date (RFC 9110, 10.2.3), or the milliseconds that some send. */
function retryAfter(headers: Headers | undefined): number | undefined {
  const ms = Number(headers?.get("retry-after-ms") ?? NaN);
  if (ms >= 0) return ms;
  const after = headers?.get("retry-after");
  if (!after) return undefined;
  const seconds = Number(after);
  const wait = Number.isNaN(seconds) ? Date.parse(after) - Date.now() : 1000 * seconds;
  return wait >= 0 ? wait : undefined;
}
