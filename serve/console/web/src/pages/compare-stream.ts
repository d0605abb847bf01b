/**
 * One question to one model or several, at the gateway, and their answers as they come. The gateway takes keys, not the
 * console's cookie: the service makes one for an hour, which stays in this program's memory.
 */
import { ApiError, api, errorOf, queryClient, type Schemas } from "../api";
import { apiRoot } from "../base";

export type Message = { role: "system" | "user" | "assistant"; content: string };
export type Question = {
  models: readonly string[];
  messages: readonly Message[];
  params: { temperature?: number; max_tokens?: number };
};
/** What was heard of the model at `index`. */
export type Heard = { index: number } & (
  | { kind: "text"; text: string }
  | { kind: "usage"; prompt: number; completion: number }
  | { kind: "refused"; message: string }
  | { kind: "done"; target: string }
);
type Chunk = {
  choices?: { delta?: { content?: string | null } }[];
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
};
type Frame = { event: string; data: string };

const KEY = ["gateway-key"];
const SPARE_MS = 60_000;
const TRIES = 12;
/** Gateways read once a second which keys there are. */
const PAUSE_MS = 300;

/** The id by which the gateway records what the model at `index` answered. */
export function recordOf(id: string, question: Question, index: number): string {
  return question.models.length === 1 ? id : `${id}-${index}`;
}

/** Ends when all have answered; throws an `ApiError` when none was asked, an `AbortError` when `signal` says so. */
export async function ask(
  id: string,
  question: Question,
  signal: AbortSignal,
  hear: (heard: Heard) => void,
): Promise<void> {
  const { models, messages, params } = question;
  const alone = models.length === 1;
  const named = alone ? { model: models[0], stream: true } : { models };
  const body = { ...named, messages, ...params, stream_options: { include_usage: true } };
  const response = await post(alone ? "/v1/chat/completions" : "/v1/compare", id, body, signal);
  if (!response.body) throw new ApiError(response.status, "no_body", "the gateway answered nothing", id);
  for await (const frame of frames(response.body)) for (const heard of heardIn(frame)) hear(heard);
  if (alone) hear({ kind: "done", index: 0, target: response.headers.get("x-raymill-target") ?? "" });
}

async function post(path: string, id: string, body: unknown, signal: AbortSignal): Promise<Response> {
  let key = kept() ?? (await another());
  let fresh = false;
  for (let tries = 1; ; tries += 1) {
    const response = await fetch(`${apiRoot}${path}`, {
      method: "POST",
      signal,
      credentials: "omit",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json", "x-request-id": id },
      body: JSON.stringify(body),
    });
    if (response.ok) return response;
    if (response.status !== 401 || tries === TRIES) throw await errorOf(response);
    if (!fresh) {
      key = await another(); // another tab of the session has made one since, which ended this one
      fresh = true;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    signal.throwIfAborted();
  }
}

/** Kept among the queries, which are forgotten when somebody signs out or in. */
function kept(): string | undefined {
  const known = queryClient.getQueryData<Schemas["GatewayKey"]>(KEY);
  return known && Date.parse(known.expires_at) - Date.now() > SPARE_MS ? known.key : undefined;
}

async function another(): Promise<string> {
  const { data } = await api.POST("/api/v1/browser/key");
  const made = data as Schemas["GatewayKey"];
  queryClient.setQueryData(KEY, made);
  return made.key;
}

/** The server-sent events of a body. */
export async function* frames(body: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const pieces = rest.split("\n\n");
    rest = done ? "" : (pieces.pop() ?? "");
    for (const piece of pieces) {
      const lines = piece.split("\n");
      const event = lines.find((line) => line.startsWith("event: "))?.slice(7) ?? "";
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length > 0) yield { event, data: data.join("\n") };
    }
    if (done) return;
  }
}

/** Of a comparison (events with names, each with an index) or of one chat (chunks alone). */
export function heardIn({ event, data }: Frame): Heard[] {
  if (data === "[DONE]" || event === "end") return [];
  const said = JSON.parse(data) as {
    index?: number;
    chunk?: Chunk;
    target?: string;
    error?: { message: string };
  } & Chunk;
  const index = event ? (said.index ?? 0) : 0;
  if (said.error) return [{ kind: "refused", index, message: said.error.message }];
  if (event === "done") return [{ kind: "done", index, target: said.target ?? "" }];
  const chunk = event ? said.chunk : said;
  const heard: Heard[] = [];
  const text = (chunk?.choices ?? []).map((choice) => choice.delta?.content ?? "").join("");
  if (text) heard.push({ kind: "text", index, text });
  if (chunk?.usage) {
    const { prompt_tokens: prompt, completion_tokens: completion } = chunk.usage;
    heard.push({ kind: "usage", index, prompt, completion });
  }
  return heard;
}
