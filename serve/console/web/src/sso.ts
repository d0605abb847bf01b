/** Signing in at the identity provider: there, and back to the address that was asked for, which this tab keeps meanwhile. */
import { api } from "./api";
import { base } from "./base";

/** Below `/console`; the provider has to know it. */
export const RETURN = "/signed-in";
const KEY = "raymill.asked";

/** Leaves the page. */
export async function goToProvider() {
  const redirect_uri = `${location.origin}${base}${RETURN}`;
  const { data } = await api.POST("/api/v1/browser/sso", { body: { redirect_uri } });
  if (!data) return;
  sessionStorage.setItem(KEY, location.pathname.slice(base.length) + location.search);
  // Busy until the page is left, and anew where the browser brings it back as it was: each login has a cookie of its own.
  addEventListener("pageshow", (event) => event.persisted && location.reload(), { once: true });
  location.assign(data.url);
  await new Promise(() => undefined);
}

/** Raises ApiError, or an Error with what the provider said. */
export async function finish(search: string) {
  const brought = new URLSearchParams(search);
  const [state, code] = [brought.get("state"), brought.get("code")];
  if (!state || !code) {
    const why = brought.get("error_description") ?? brought.get("error") ?? "it sent no code";
    throw new Error(`The identity provider let nobody in: ${why}.`);
  }
  await api.POST("/api/v1/browser/sso/session", { body: { state, code, iss: brought.get("iss") } });
}

/** Where the login began, once. */
export function asked(): string {
  const path = sessionStorage.getItem(KEY) ?? "";
  sessionStorage.removeItem(KEY);
  return /^\/(?!\/|signed-in)/.test(path) ? path : "/overview";
}
