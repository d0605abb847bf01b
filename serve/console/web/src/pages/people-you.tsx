/** One's own account: password, sessions, and what is kept of oneself. */
import { type FormEvent, useState } from "react";
import { CONSOLE_HEADER, errorOf, queryClient, type Schemas } from "../api";
import { apiRoot } from "../base";
import { DASH } from "../fmt";
import { useSession } from "../session";
import { Button, Facts, Field, Input } from "../ui/controls";
import { Refused } from "../ui/dialog";
import { May, Panel } from "../ui/page";
import { Notice } from "../ui/state";
import { PersonalData } from "./people-person";
import { Sessions } from "./people-sessions";

export function You() {
  const me = useSession();
  return (
    <>
      <Facts
        of={[
          ["Account", me.account],
          ["Role", me.role],
          ["Team", me.team ?? DASH],
        ]}
      />
      <div className="panels">
        <May call="PUT /api/v1/password">
          <OwnPassword />
        </May>
        <PersonalData name={me.account} />
      </div>
      <Sessions account={me.account} />
    </>
  );
}

function OwnPassword() {
  const [current, setCurrent] = useState("");
  const [password, setPassword] = useState("");
  const [told, tell] = useState<string | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setError(null);
    tell(null);
    try {
      const { ended_sessions: ended } = await change({ current, password });
      setCurrent("");
      setPassword("");
      tell(`It is changed; ${ended} other sessions ended.`);
      await queryClient.invalidateQueries();
    } catch (refused) {
      setError(refused instanceof Error ? refused : new Error(String(refused)));
    }
  };
  return (
    <Panel title="Your password">
      <form onSubmit={submit}>
        <Field label="The one you have">
          <Input
            type="password"
            autoComplete="current-password"
            value={current}
            onChange={(event) => setCurrent(event.target.value)}
          />
        </Field>
        <Field label="Another one" hint="12 characters or more. Your other sessions end">
          <Input
            type="password"
            autoComplete="new-password"
            value={password}
            onChange={(event) => setPassword(event.target.value)}
          />
        </Field>
        {told && <Notice kind="ok">{told}</Notice>}
        {error && <Refused error={error} />}
        <div className="actions">
          <Button type="submit" disabled={!current || !password}>
            Change it
          </Button>
        </div>
      </form>
    </Panel>
  );
}

/** Not through `api`: a wrong password is answered with 401, which means there that the session has ended. */
async function change(body: Schemas["PasswordChange"]): Promise<Schemas["PasswordSet"]> {
  const response = await fetch(`${apiRoot}/api/v1/password`, {
    method: "PUT",
    headers: { ...CONSOLE_HEADER, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw await errorOf(response);
  return response.json();
}
