/** Where the identity provider sends the browser back: on to the page that was asked for, or what went wrong. */
import { useEffect, useRef, useState } from "react";
import { useLocation } from "wouter";
import { useForgetSession } from "../session";
import { asked, finish } from "../sso";
import { asError } from "../ui/attempt";
import { Button } from "../ui/controls";
import { Failed, Waiting } from "../ui/state";

export function SignedIn() {
  const [, navigate] = useLocation();
  const forget = useForgetSession();
  const begun = useRef(false);
  const [error, setError] = useState<Error | null>(null);
  useEffect(() => {
    if (begun.current) return; // a code works once
    begun.current = true;
    document.title = "Sign in · Raymill";
    finish(location.search)
      .then(async () => {
        await forget();
        navigate(asked(), { replace: true });
      })
      .catch((thrown) => setError(asError(thrown)));
  }, [forget, navigate]);
  return (
    <main className="alone">
      <h1>Raymill</h1>
      {error ? (
        <>
          <Failed error={error} what="to sign in" />
          <Button look="main" onClick={() => navigate(asked(), { replace: true })}>
            Back
          </Button>
        </>
      ) : (
        <Waiting />
      )}
    </main>
  );
}
