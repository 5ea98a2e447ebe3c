/** A server on this machine that speaks the OpenAI protocol, for tests: answers by rule, and fails as told. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface ChatBody {
  model: string;
  messages: { role: string; content: string }[];
  stream?: boolean;
  max_tokens?: number;
  max_completion_tokens?: number;
  temperature?: number;
}

/** What happens to a request instead of an answer. */
export type Fault =
  | { kind: "status"; status: number; message?: string; headers?: Record<string, string> }
  /** The connection is cut, of a stream in the middle. */
  | { kind: "cut" }
  /** 200, but not the protocol. */
  | { kind: "html" }
  /** Never answered. */
  | { kind: "silent" };

export interface StubOptions {
  chat?: (messages: ChatBody["messages"]) => string;
  embed?: (text: string) => number[];
  /** Of the n-th request, from 0. */
  fault?: (n: number, body: ChatBody) => Fault | undefined;
  /** Answers whole where a stream was asked for. */
  ignoresStream?: boolean;
  delayMs?: number;
}

export interface Stub {
  url: string;
  /** Bodies of all requests, in the order in which they came. */
  requests: ChatBody[];
  /** Headers of the last one. */
  headers: IncomingMessage["headers"];
  /** The most that were under way at a time. */
  mostAtOnce: number;
  close(): Promise<void>;
}

export async function stubEndpoint(options: StubOptions = {}): Promise<Stub> {
  const { chat = () => "EXPLANATION: something", embed, fault, delayMs = 0 } = options;
  let underWay = 0;
  const server = createServer((request, response) => {
    underWay++;
    stub.mostAtOnce = Math.max(stub.mostAtOnce, underWay);
    response.on("close", () => underWay--);
    void answer(request, response);
  });
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    let text = "";
    for await (const part of request) text += String(part);
    const body = JSON.parse(text) as ChatBody & { input?: string[] };
    const n = stub.requests.push(body) - 1;
    stub.headers = request.headers;
    if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
    const failing = fault?.(n, body);
    const json = (status: number, value: unknown, headers: Record<string, string> = {}) => {
      response.writeHead(status, { "content-type": "application/json", ...headers });
      response.end(JSON.stringify(value));
    };
    switch (failing?.kind) {
      case "status": {
        const { status, message = "no", headers } = failing;
        return json(status, { error: { message } }, headers);
      }
      case "html":
        response.writeHead(200, { "content-type": "text/html" });
        return response.end("<html>It works!</html>");
      case "silent":
        return;
      case "cut":
        if (!body.stream) return request.socket.destroy();
    }
    if (request.url === "/v1/embeddings" && embed)
      return json(200, {
        data: body.input!.map((input, index) => ({ index, embedding: embed(input) })),
      });
    if (request.url !== "/v1/chat/completions") return json(404, { error: { message: "no such path" } }); // prettier-ignore
    const content = chat(body.messages);
    if (!body.stream || options.ignoresStream)
      return json(200, { choices: [{ message: { role: "assistant", content }, finish_reason: "stop" }] }); // prettier-ignore
    response.writeHead(200, { "content-type": "text/event-stream" });
    const send = (choice: unknown) => response.write(`data: ${JSON.stringify({ choices: [choice] })}\n\n`); // prettier-ignore
    for (const word of content.split(/(?<= )/)) {
      send({ delta: { content: word }, finish_reason: null });
      await new Promise((resolve) => setImmediate(resolve));
      if (failing?.kind === "cut") return request.socket.destroy();
    }
    send({ delta: {}, finish_reason: "stop" });
    response.end("data: [DONE]\n\n");
  };
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const stub: Stub = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    requests: [],
    headers: {},
    mostAtOnce: 0,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return stub;
}

/** The numbered texts of a question. */
function textsOf(content: string): string[] {
  return [...content.matchAll(/^\d+\. (.*)$/gm)].map(([, text]) => text);
}

/** A judge who knows that the feature is `word`, wherever it stands. */
export function knowingJudge(word: string): (messages: ChatBody["messages"]) => string {
  const has = (text: string) => new RegExp(`\\b${word}\\b`).test(text);
  return ([system, { content }]) => {
    const task = system.content;
    if (task.includes("EXPLANATION:")) return `EXPLANATION: the word ${word}`;
    if (task.includes("odd one"))
      return String(textsOf(content).findIndex((text) => !has(text)) + 1);
    if (
      task.includes("JSON array of the tokens") ||
      task.includes("tokens of a text as a JSON array")
    ) {
      const pieces = JSON.parse(content.slice(content.indexOf("["))) as string[];
      return JSON.stringify(pieces.map((piece) => (has(piece) ? 10 : 0)));
    }
    const isRight = (text: string) => {
      const marked = [...text.matchAll(/<<(.*?)>>/g)].map(([, inside]) => inside);
      return marked.length > 0 ? marked.every((inside) => inside.trim() === word) : has(text);
    };
    return JSON.stringify(textsOf(content).map((text) => (isRight(text) ? 1 : 0)));
  };
}

/** A judge who throws dice: the same for the same text. */
export function dicingJudge(): (messages: ChatBody["messages"]) => string {
  let state = 12345;
  const dice = (sides: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 16) % sides;
  };
  return ([system, { content }]) => {
    const task = system.content;
    if (task.includes("EXPLANATION:")) return "EXPLANATION: anything";
    if (task.includes("odd one")) return String(1 + dice(textsOf(content).length));
    if (task.includes("tokens of a text as a JSON array")) {
      const pieces = JSON.parse(content.slice(content.indexOf("["))) as string[];
      return JSON.stringify(pieces.map(() => dice(11)));
    }
    return JSON.stringify(textsOf(content).map(() => dice(2)));
  };
}
