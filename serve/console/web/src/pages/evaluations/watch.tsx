/** A new watch: prompts with known answers to a served model, or what a route is asked. */
import { useState } from "react";
import { api, type Schemas } from "../../api";
import { useSession } from "../../session";
import { CallForm } from "../../ui/call-form";
import { Field, Input, Select } from "../../ui/controls";
import { Panel } from "../../ui/page";

type Config = Schemas["DriftRequest"]["config"];
type Follows = Config["on_major"];
const TELL: Follows[] = ["tell"];
const ALL: Follows[] = ["tell", "freeze", "rollback"];

export function NewWatch() {
  const { role } = useSession();
  const [name, setName] = useState("");
  const [what, setWhat] = useState<"canary" | "traffic">("canary");
  const [target, setTarget] = useState("");
  const [dataset, setDataset] = useState("");
  const [route, setRoute] = useState("");
  const [schedule, setSchedule] = useState("0 * * * *");
  const [onMajor, setOnMajor] = useState<Follows>("tell");
  const choices = role === "approver" || role === "admin" ? ALL : TELL;
  const run = () =>
    api.POST("/api/v1/drift", {
      body: {
        name,
        enabled: true,
        // What is left out is the service's usual.
        config: {
          target: target.trim() || null,
          canary: what === "canary" ? { dataset: dataset.trim() } : null,
          traffic: what === "traffic" ? { route: route.trim() } : null,
          schedule: schedule.trim() || null,
          on_major: onMajor,
        } as Config,
      },
    });
  const ready = what === "canary" ? target.trim() && dataset.trim() : route.trim();
  return (
    <Panel title="New watch">
      <CallForm call="POST /api/v1/drift" action="Watch" disabled={!name || !ready} run={run}>
        <div className="pair">
          <Field label="Name">
            <Input value={name} onChange={(event) => setName(event.target.value)} />
          </Field>
          <Field label="Looks at">
            <Select
              value={what}
              options={[
                ["canary", "answers to known prompts"],
                ["traffic", "what a route is asked"],
              ]}
              onChange={(event) => setWhat(event.target.value as typeof what)}
            />
          </Field>
          <Field label="Target" hint="MODEL@ALIAS: who is asked, and whose alias is held">
            <Input value={target} onChange={(event) => setTarget(event.target.value)} />
          </Field>
          {what === "canary" ? (
            <Field label="Data set" hint="NAME or NAME@NUMBER, whose held-out rows are asked">
              <Input value={dataset} onChange={(event) => setDataset(event.target.value)} />
            </Field>
          ) : (
            <Field label="Route" hint="One that keeps its traces">
              <Input value={route} onChange={(event) => setRoute(event.target.value)} />
            </Field>
          )}
          <Field label="Schedule" hint="Cron, UTC; empty: only by hand">
            <Input value={schedule} onChange={(event) => setSchedule(event.target.value)} />
          </Field>
          <Field label="On major drift">
            <Select
              value={onMajor}
              options={choices}
              onChange={(event) => setOnMajor(event.target.value as Follows)}
            />
          </Field>
        </div>
      </CallForm>
    </Panel>
  );
}
