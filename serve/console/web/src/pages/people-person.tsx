/** Who is behind an account, all that is kept of it as a file, and erasing that. */
import { useState } from "react";
import { $api, api, type Schemas } from "../api";
import { save } from "../save";
import { useSession } from "../session";
import { Action } from "../ui/action";
import { CallForm } from "../ui/call-form";
import { Field, Input } from "../ui/controls";
import { Panel } from "../ui/page";
import { Loaded } from "../ui/state";

export function PersonalData({ name }: { name: string }) {
  const me = useSession();
  const path = { params: { path: { name } } };
  const query = $api.useQuery("get", "/api/v1/accounts/{name}/person", path);
  const keep = async () => {
    const { data } = await api.GET("/api/v1/accounts/{name}/export", path);
    save(`${name}.json`, JSON.stringify(data, null, 2), "application/json");
  };
  return (
    <Panel
      title="Personal data"
      actions={
        <>
          <Action call="GET /api/v1/accounts/{name}/export" label="Save all that is kept" run={keep} />
          {name !== me.account && (
            <Action
              call="POST /api/v1/accounts/{name}/erase"
              label="Erase"
              look="bad"
              confirm={{
                title: `Erase what is kept of ${name}?`,
                text: "Names, prompts, answers, texts and passwords are gone for ever, its keys and sessions end, and the account is disabled for good. Numbers of requests stay: they were billed.",
                typed: name,
              }}
              run={() => api.POST("/api/v1/accounts/{name}/erase", path)}
            />
          )}
        </>
      }
    >
      <Loaded query={query} what="who is behind the account">
        {(person) => <PersonForm key={`${person.display_name} ${person.email}`} person={person} />}
      </Loaded>
    </Panel>
  );
}

function PersonForm({ person }: { person: Schemas["Person"] }) {
  const [displayName, setDisplayName] = useState(person.display_name);
  const [email, setEmail] = useState(person.email);
  const run = () =>
    api.PATCH("/api/v1/accounts/{name}/person", {
      params: { path: { name: person.account } },
      body: { display_name: displayName || null, email: email || null },
    });
  const same = displayName === person.display_name && email === person.email;
  return (
    <CallForm
      call="PATCH /api/v1/accounts/{name}/person"
      action="Keep it"
      look="plain"
      disabled={same}
      run={run}
    >
      <div className="pair">
        <Field label="Name of the person">
          <Input value={displayName} onChange={(event) => setDisplayName(event.target.value)} />
        </Field>
        <Field label="Mail">
          <Input type="email" value={email} onChange={(event) => setEmail(event.target.value)} />
        </Field>
      </div>
    </CallForm>
  );
}
