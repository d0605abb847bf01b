/** A data set of what a route was asked and answered. For administrators, who alone see everyone's prompts. */
import { useState } from "react";
import { $api, api, type Schemas } from "../../api";
import { CallForm } from "../../ui/call-form";
import { Field, Input, Select } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { Outcome } from "./outcome";

type Asked = Schemas["TrafficRequest"];
const DAY_MS = 86_400_000;

export function FromTraffic() {
  const routes = $api.useQuery("get", "/api/v1/routes", { params: { query: { limit: 200 } } });
  const [job, setJob] = useState<string | null>(null);
  return (
    <div className="split grid">
      <Panel title="From kept requests of a route">
        <Loaded query={routes} what="the routes">
          {(page) => {
            const keeping = page.data.filter((each) => each.config.keep_traces === true);
            return keeping.length === 0 ? (
              <Empty title="No route keeps its requests">
                Set keep_traces on a route of the gateway; personal data is masked then.
              </Empty>
            ) : (
              <TrafficForm routes={keeping.map((each) => each.name)} begun={setJob} />
            );
          }}
        </Loaded>
      </Panel>
      {job && <Outcome jobId={job} title="Registration" />}
    </div>
  );
}

function TrafficForm({ routes, begun }: { routes: string[]; begun: (jobId: string) => void }) {
  const [name, setName] = useState("");
  const [route, setRoute] = useState(routes[0] ?? "");
  const [days, setDays] = useState("7");
  const [feedback, setFeedback] = useState<Asked["feedback"]>("any");
  const [least, setLeast] = useState("");
  const [as, setAs] = useState<Asked["as"]>("conversations");
  const [share, setShare] = useState("0.1");
  const run = async () => {
    const { data } = await api.POST("/api/v1/datasets/from-traffic", {
      body: {
        name,
        route,
        since: new Date(Date.now() - Number(days) * DAY_MS).toISOString(),
        feedback,
        min_score: least === "" ? null : Number(least),
        as,
        split: share ? { test: Number(share), seed: 0 } : null,
        duplicates: "drop_exact",
      },
    });
    const made = data?.jobs?.at(-1);
    if (made) begun(made.id);
  };
  return (
    <CallForm
      call="POST /api/v1/datasets/from-traffic"
      action="Make it"
      disabled={!name || !(Number(days) > 0)}
      run={run}
    >
      <div className="pair">
        <Field label="Name">
          <Input value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <Field label="Route">
          <Select value={route} options={routes} onChange={(event) => setRoute(event.target.value)} />
        </Field>
        <Field label="Of the last days">
          <Input inputMode="decimal" value={days} onChange={(event) => setDays(event.target.value)} />
        </Field>
        <Field label="Rows are">
          <Select
            value={as}
            options={[
              ["conversations", "conversations"],
              ["preferences", "preferences: better and worse answers"],
            ]}
            onChange={(event) => setAs(event.target.value as Asked["as"])}
          />
        </Field>
        <Field label="Feedback">
          <Select
            value={feedback}
            options={[
              ["any", "with or without"],
              ["scored", "with a score or a correction"],
              ["corrected", "with a correction"],
            ]}
            onChange={(event) => setFeedback(event.target.value as Asked["feedback"])}
          />
        </Field>
        <Field label="Score at least" hint="-1 to 1; empty: any">
          <Input inputMode="decimal" value={least} onChange={(event) => setLeast(event.target.value)} />
        </Field>
        <Field label="Share held out" hint="Empty: none">
          <Input inputMode="decimal" value={share} onChange={(event) => setShare(event.target.value)} />
        </Field>
      </div>
    </CallForm>
  );
}
