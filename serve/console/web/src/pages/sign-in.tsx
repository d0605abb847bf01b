/** The login. It stands at whatever address was asked for, which is shown once who asks is known. */
import { type FormEvent, useEffect, useState } from "react";
import { useSignIn } from "../session";
import { Button, Field, Input } from "../ui/controls";
import { Refused } from "../ui/dialog";

export function SignIn() {
  const signIn = useSignIn();
  const [account, setAccount] = useState("");
  const [password, setPassword] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  useEffect(() => {
    document.title = "Sign in · Raymill";
  }, []);
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await signIn(account, password);
    } catch (refused) {
      setError(refused instanceof Error ? refused : new Error(String(refused)));
      setBusy(false);
    }
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
      <p className="small">
        An administrator gives an account its first password: <code>raymill user set-password NAME</code>
      </p>
    </main>
  );
}
