/** Asks for a promotion: the policy decides at once, then the environment's approvals and its canary follow. */
import { useState } from "react";
import { useLocation } from "wouter";
import { $api, api } from "../../api";
import { CallForm } from "../../ui/call-form";
import { Field, Input, Select } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { useParam } from "../../url";
import { canaryOf } from "./environments";

export function NewPromotion() {
  const models = $api.useQuery("get", "/api/v1/llms", { params: { query: { limit: 100 } } });
  return (
    <Panel title="New promotion">
      <Loaded query={models} what="the models">
        {(page) =>
          page.data.length === 0 ? (
            <Empty title="No model yet">A training run registers one.</Empty>
          ) : (
            <PromotionForm names={page.data.map((each) => each.name)} />
          )
        }
      </Loaded>
    </Panel>
  );
}

function PromotionForm({ names }: { names: string[] }) {
  const [llm, setLlm] = useParam("llm");
  const [version, setVersion] = useParam("version");
  const [to, setTo] = useState("production");
  const [task, setTask] = useState("");
  const [least, setLeast] = useState("");
  const [share, setShare] = useState("");
  const [, navigate] = useLocation();
  const environments = $api.useQuery("get", "/api/v1/environments");
  const versions = $api.useQuery(
    "get",
    "/api/v1/llms/{name}/versions",
    { params: { path: { name: llm }, query: { limit: 100 } } },
    { enabled: names.includes(llm) },
  );
  const choices = (versions.data?.data ?? []).filter((each) => !each.archived);
  const chosen = choices.some((each) => String(each.number) === version) ? version : "";
  const tasks = Object.keys(choices.find((each) => String(each.number) === chosen)?.scores ?? {});
  const run = async () => {
    const { data } = await api.POST("/api/v1/promotions", {
      body: {
        llm,
        version: Number(chosen),
        to,
        require: task && least ? { [task]: { at_least: Number(least) } } : {},
        canary: share ? canaryOf(Number(share)) : null,
      },
    });
    if (data) navigate(`/promotions?id=${data.id}`);
  };
  return (
    <CallForm call="POST /api/v1/promotions" action="Ask" disabled={!llm || !chosen || !to} run={run}>
      <div className="pair">
        <Field label="Model">
          <Select
            value={llm}
            options={[["", "choose"], ...names]}
            onChange={(event) => setLlm(event.target.value)}
          />
        </Field>
        <Field label="Version">
          <Select
            value={chosen}
            options={[["", "choose"], ...choices.map((each) => String(each.number))]}
            onChange={(event) => setVersion(event.target.value)}
          />
        </Field>
        <Field label="To" hint="An alias; an environment of its name says what else it takes">
          <Input list="aliases" value={to} onChange={(event) => setTo(event.target.value)} />
        </Field>
        <datalist id="aliases">
          {(environments.data?.data ?? []).map((each) => (
            <option key={each.name} value={each.name} />
          ))}
        </datalist>
      </div>
      <div className="pair">
        <Field label="If the score on">
          <Select
            value={task}
            options={[["", "nothing more"], ...tasks]}
            onChange={(event) => setTask(event.target.value)}
          />
        </Field>
        <Field label="Is at least" hint="Such as 0.9">
          <Input inputMode="decimal" value={least} onChange={(event) => setLeast(event.target.value)} />
        </Field>
        <Field label="Canary's share" hint="Such as 0.1; empty: as the environment says">
          <Input inputMode="decimal" value={share} onChange={(event) => setShare(event.target.value)} />
        </Field>
      </div>
    </CallForm>
  );
}
