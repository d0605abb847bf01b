/** One's own account: password, sessions, and what is kept of oneself. */
import { useState } from "react";
import { CONSOLE_HEADER, errorOf, type Schemas } from "../api";
import { apiRoot } from "../base";
import { DASH } from "../fmt";
import { useSession } from "../session";
import { CallForm } from "../ui/call-form";
import { Facts, Secret } from "../ui/controls";
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
  const run = async () => {
    tell(null);
    const { ended_sessions: ended } = await change({ current, password });
    setCurrent("");
    setPassword("");
    tell(`It is changed; ${ended} other sessions ended.`);
  };
  return (
    <Panel title="Your password">
      <CallForm
        call="PUT /api/v1/password"
        action="Change it"
        look="plain"
        disabled={!current || !password}
        run={run}
      >
        <Secret label="The one you have" value={current} change={setCurrent} own />
        <Secret
          label="Another one"
          hint="12 characters or more. Your other sessions end"
          value={password}
          change={setPassword}
        />
        {told && <Notice kind="ok">{told}</Notice>}
      </CallForm>
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
