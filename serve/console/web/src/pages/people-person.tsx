/** Who is behind an account, all that is kept of it as a file, and erasing that. */
import { type FormEvent, useState } from "react";
import { $api, api, queryClient, type Schemas } from "../api";
import { save } from "../save";
import { useSession } from "../session";
import { Action } from "../ui/action";
import { Button, Field, Input } from "../ui/controls";
import { Refused } from "../ui/dialog";
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
  const [error, setError] = useState<Error | null>(null);
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setError(null);
    try {
      await api.PATCH("/api/v1/accounts/{name}/person", {
        params: { path: { name: person.account } },
        body: { display_name: displayName || null, email: email || null },
      });
      await queryClient.invalidateQueries();
    } catch (refused) {
      setError(refused instanceof Error ? refused : new Error(String(refused)));
    }
  };
  const same = displayName === person.display_name && email === person.email;
  return (
    <form onSubmit={submit}>
      <div className="pair">
        <Field label="Name of the person">
          <Input value={displayName} onChange={(event) => setDisplayName(event.target.value)} />
        </Field>
        <Field label="Mail">
          <Input type="email" value={email} onChange={(event) => setEmail(event.target.value)} />
        </Field>
      </div>
      {error && <Refused error={error} />}
      <div className="actions">
        <Button type="submit" disabled={same}>
          Keep it
        </Button>
      </div>
    </form>
  );
}
