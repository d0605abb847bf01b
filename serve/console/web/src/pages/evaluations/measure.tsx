/** Measures a target by a job of its own, outside a recipe. */
import { useState } from "react";
import { useLocation } from "wouter";
import { api, type Schemas } from "../../api";
import { CallForm, Tick } from "../../ui/call-form";
import { Field, Input } from "../../ui/controls";
import { Panel } from "../../ui/page";

const TASKS = ["heldout_exact_match", "heldout_f1"] as const;

export function Measure() {
  const [target, setTarget] = useState("");
  const [tasks, setTasks] = useState<string[]>([TASKS[0]]);
  const [dataset, setDataset] = useState("");
  const [limit, setLimit] = useState("");
  const [, navigate] = useLocation();
  const run = async () => {
    const { data } = await api.POST("/api/v1/evaluations", {
      // What is left out is the service's usual.
      body: {
        target: target.trim(),
        tasks: TASKS.filter((each) => tasks.includes(each)),
        dataset: dataset.trim() || null,
        limit: limit ? Number(limit) : null,
      } as Schemas["TargetEvaluation"],
    });
    const job = data?.jobs?.[0];
    if (job) navigate(`/jobs/${job.id}`);
  };
  return (
    <Panel title="Measure a target">
      <CallForm
        call="POST /api/v1/evaluations"
        action="Measure"
        disabled={!target.trim() || tasks.length === 0}
        run={run}
      >
        <div className="pair">
          <Field label="Target" hint="support@3, support@3:Q4_K_M or gateway:MODEL">
            <Input value={target} onChange={(event) => setTarget(event.target.value)} />
          </Field>
          <Field label="Data set" hint="NAME or NAME@NUMBER; empty: the version's own">
            <Input value={dataset} onChange={(event) => setDataset(event.target.value)} />
          </Field>
          <Field label="First rows" hint="Empty: all of them">
            <Input inputMode="numeric" value={limit} onChange={(event) => setLimit(event.target.value)} />
          </Field>
        </div>
        <fieldset className="plain actions">
          <legend>Held-out rows, by</legend>
          {TASKS.map((task) => (
            <Tick
              key={task}
              label={task}
              value={tasks.includes(task)}
              change={(on) => setTasks(on ? [...tasks, task] : tasks.filter((each) => each !== task))}
            />
          ))}
        </fieldset>
      </CallForm>
      <p className="small">
        Other tasks have settings of their own, and are started by <code>raymill evaluate run</code>.
      </p>
    </Panel>
  );
}
