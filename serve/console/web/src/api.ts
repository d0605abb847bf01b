/** Calls of the control plane, typed by its OpenAPI document; what it refuses is thrown as an `ApiError`. */
import { QueryClient } from "@tanstack/react-query";
import createFetchClient, { type Middleware } from "openapi-fetch";
import createClient from "openapi-react-query";
import type { components, paths } from "./api.gen";
import { apiRoot } from "./base";

export type Schemas = components["schemas"];

type Method = "get" | "put" | "post" | "delete" | "patch";
/** `POST /api/v1/jobs`: a route, as `useMay` asks for it. One that is no more fails the build. */
export type Route = {
  [P in keyof paths & string]: {
    [M in Method]: paths[P] extends Record<M, infer O>
      ? undefined extends O
        ? never
        : `${Uppercase<M>} ${P}`
      : never;
  }[Method];
}[keyof paths & string];

/** What every refusal looks like (`raymill.client.types.ErrorEnvelope`). */
type ErrorEnvelope = {
  error: { code: string; message: string; param: string | null; request_id: string | null };
};

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly requestId: string | null,
    readonly param: string | null = null,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** Told when a session has ended: the shell shows the login and comes back to the same address. */
export const signedOut = new EventTarget();

export async function errorOf(response: Response): Promise<ApiError> {
  const id = response.headers.get("x-request-id");
  try {
    const { error } = (await response.json()) as ErrorEnvelope;
    return new ApiError(response.status, error.code, error.message, error.request_id ?? id, error.param);
  } catch {
    return new ApiError(response.status, "http_error", `the service answered ${response.status}`, id);
  }
}

/** The header without which the session's cookie changes nothing. */
export const CONSOLE_HEADER = { "x-raymill-console": "1" };

/** These ask whether there is a session: their callers tell what follows. */
const ASKS = new Set<string>(["/api/v1/access", "/api/v1/browser/session", "/api/v1/browser/sso/session"]);

const strict: Middleware = {
  onRequest({ request }) {
    request.headers.set("x-raymill-console", "1");
    return request;
  },
  async onResponse({ response, schemaPath }) {
    if (response.ok) return undefined;
    const error = await errorOf(response);
    if (error.status === 401 && !ASKS.has(schemaPath)) signedOut.dispatchEvent(new Event("signedout"));
    throw error;
  },
  onError({ error }) {
    if (error instanceof ApiError || (error instanceof DOMException && error.name === "AbortError"))
      return undefined;
    return new ApiError(0, "unreachable", "the service does not answer: it may be starting again", null);
  },
};

/** `api.POST("/api/v1/jobs", { body })`: one call. `fetch` is looked up at each, so that tests may replace it. */
export const api = createFetchClient<paths>({
  baseUrl: apiRoot || globalThis.location?.origin,
  fetch: (request) => globalThis.fetch(request),
});
api.use(strict);

/** `$api.useQuery("get", "/api/v1/jobs", …)`, `$api.useMutation("post", …)`. */
export const $api = createClient(api);

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 2_000,
      refetchInterval: 30_000, // the floor below the event stream
      retry: (count, error) =>
        error instanceof ApiError && (error.status === 0 || error.status === 503) && count < 3,
      retryDelay: (count) => Math.min(500 * 2 ** count, 4_000),
    },
    mutations: { retry: false },
  },
});
