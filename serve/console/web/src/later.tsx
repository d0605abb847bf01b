/** A page whose code comes when it is asked for, and that never flickers once it is there (React holds a Suspense
 * fallback for 300 ms, so none is used). */
import { type ComponentType, useEffect, useState } from "react";
import { asError } from "./ui/attempt";
import { Failed, Waiting } from "./ui/state";

export function later(load: () => Promise<{ default: ComponentType }>) {
  let loaded: ComponentType | null = null;
  const preload = async () => {
    loaded ??= (await load()).default;
  };
  // biome-ignore lint/correctness/noComponentHookFactories: called once for each page, when this program starts
  function Later() {
    const [, drawn] = useState(loaded !== null);
    const [error, setError] = useState<Error | null>(null);
    useEffect(() => {
      if (loaded) return;
      preload().then(
        () => drawn(true),
        (reason: unknown) => setError(asError(reason)),
      );
    }, []);
    const Loaded = loaded;
    if (Loaded) return <Loaded />;
    return error ? (
      <Failed error={error} what="this page: a newer console may be there" retry={() => location.reload()} />
    ) : (
      <Waiting />
    );
  }
  return Object.assign(Later, { preload });
}
