/** The login. It stands at whatever address was asked for, which is shown once who asks is known. */
import { type FormEvent, useEffect, useState } from "react";
import { $api } from "../api";
import { useSignIn } from "../session";
import { goToProvider } from "../sso";
import { useAttempt } from "../ui/attempt";
import { Button, Field, Input } from "../ui/controls";
import { Refused } from "../ui/dialog";

export function SignIn() {
  const signIn = useSignIn();
  const [account, setAccount] = useState("");
  const [password, setPassword] = useState("");
  const { busy, error, attempt } = useAttempt();
  useEffect(() => {
    document.title = "Sign in · Raymill";
  }, []);
  const offer = $api.useQuery("get", "/api/v1/browser/sso", {}, { retry: false, refetchInterval: false });
  const provider = offer.data?.provider;
  const submit = (event: FormEvent) => {
    event.preventDefault();
    void attempt(() => signIn(account, password));
  };
  return (
    <main className="alone">
      <h1>Raymill</h1>
      <form onSubmit={submit}>
        <Field label="Account">
          <Input
            name="account"
            autoComplete="username"
            required
            autoFocus
            value={account}
            onChange={(event) => setAccount(event.target.value)}
          />
        </Field>
        <Field label="Password">
          <Input
            name="password"
            type="password"
            autoComplete="current-password"
            required
            value={password}
            onChange={(event) => setPassword(event.target.value)}
          />
        </Field>
        {error && <Refused error={error} />}
        <Button type="submit" look="main" disabled={busy}>
          Sign in
        </Button>
      </form>
      {provider && (
        <Button disabled={busy} onClick={() => void attempt(goToProvider)}>
          Sign in with {provider}
        </Button>
      )}
      <p className="small">
        An administrator gives an account its first password: <code>raymill user set-password NAME</code>
      </p>
    </main>
  );
}
