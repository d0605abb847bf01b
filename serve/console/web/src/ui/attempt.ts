/** Something that is tried: whether it goes on, and what was said when it failed. */
import { useState } from "react";

export function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

/** `attempt` tells whether it went well; what was called off by the person did not, and is no error. */
export function useAttempt() {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  const attempt = async (how: () => Promise<unknown>): Promise<boolean> => {
    setBusy(true);
    setError(null);
    try {
      await how();
      return true;
    } catch (thrown) {
      if (!stopped(thrown)) setError(asError(thrown));
      return false;
    } finally {
      setBusy(false);
    }
  };
  return { busy, error, attempt };
}

/** Called off by the person, who needs no word about it. */
export function stopped(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
