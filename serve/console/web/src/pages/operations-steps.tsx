/** The prompts, models and limits of code analysis: every version of a step, which is used, and how a tried one does. */
import { useState } from "react";
import { $api, api, type Schemas } from "../api";
import { DASH, num, percent, when } from "../fmt";
import { useMay } from "../session";
import { Action } from "../ui/action";
import { Button, Field, Select } from "../ui/controls";
import { Diff } from "../ui/diff";
import { Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useParam } from "../url";
import { Canary, type Step, StepForm } from "./operations-step-forms";

type Version = Schemas["CodeStepVersion"];
type Trial = Schemas["CodeTrial"];
const STEPS: readonly Step[] = ["forensic", "rebuild", "quality"];

export function StepsOfCode() {
  const [named, setStep] = useParam("step", "forensic");
  const step = STEPS.find((each) => each === named) ?? "forensic";
  const [writing, write] = useState(false);
  const may = useMay("PUT /code/v1/steps/{step}");
  const path = { params: { path: { step } } };
  const versions = $api.useQuery("get", "/code/v1/steps/{step}/versions", path);
  const trials = $api.useQuery("get", "/code/v1/steps/{step}/canary", path);
  const used = versions.data?.data.find((each) => each.active);
  return (
    <>
      <div className="filters">
        <Field label="Step of code analysis">
          <Select
            data-search
            value={step}
            options={STEPS}
            onChange={(event) => {
              write(false);
              setStep(event.target.value);
            }}
          />
        </Field>
        {may && !writing && <Button onClick={() => write(true)}>New version</Button>}
      </div>
      {writing && <StepForm key={step} step={step} used={used} close={() => write(false)} />}
      <Loaded query={versions} what="the versions">
        {(page) => <Versions step={step} versions={page.data} />}
      </Loaded>
      <Loaded query={trials} what="what was measured of them">
        {(page) => (
          <Panel
            title="Measured, by version"
            actions={<Canary step={step} versions={versions.data?.data ?? []} />}
          >
            <Table
              caption="Submissions by the version that did the step"
              columns={TRIALS}
              rows={page.data}
              rowKey={(trial) => String(trial.version)}
              empty={<Empty title="No submission has met this step yet" />}
            />
          </Panel>
        )}
      </Loaded>
    </>
  );
}

function Versions({ step, versions }: { step: Step; versions: readonly Version[] }) {
  const [shown, show] = useState<number | null>(null);
  const used = versions.find((each) => each.active);
  const looked = versions.find((each) => each.version === shown);
  const columns: Column<Version>[] = [
    ...VERSIONS,
    {
      id: "do",
      label: "Do",
      cell: (each) => (
        <div className="actions">
          <Button
            aria-label={`Show version ${each.version}`}
            aria-pressed={shown === each.version}
            onClick={() => show(shown === each.version ? null : each.version)}
          >
            Show
          </Button>
          {!each.active && (
            <Action
              call="POST /code/v1/steps/{step}/use"
              label="Use"
              confirm={{
                title: `Use version ${each.version} of ${step}?`,
                text: "Every step that starts from then on does; what runs goes on as it began.",
              }}
              run={() =>
                api.POST("/code/v1/steps/{step}/use", {
                  params: { path: { step } },
                  body: { version: each.version },
                })
              }
            />
          )}
        </div>
      ),
    },
  ];
  return (
    <>
      <Table
        caption={`Versions of ${step}, newest first`}
        columns={columns}
        rows={versions}
        rowKey={(each) => String(each.version)}
        empty={
          <Empty title="The step has no model yet">
            Give it one here, or: <code>raymill code set {step} --model ROUTE</code>
          </Empty>
        }
      />
      {looked && (
        <Panel title={`Version ${looked.version}, and how it differs from the one in use`}>
          <Diff
            before={textOf(used && used.version !== looked.version ? used : undefined)}
            after={textOf(looked)}
            label={`Version ${used?.version ?? ""} and version ${looked.version}`}
          />
        </Panel>
      )}
    </>
  );
}

/** The prompt with its own line ends, then the rest. */
function textOf(version: Version | undefined): string {
  if (!version) return "";
  const { prompt, ...rest } = version.config;
  return `${typeof prompt === "string" ? prompt : "(the step's own prompt)"}\n\n${JSON.stringify(rest, null, 2)}`;
}

const VERSIONS: Column<Version>[] = [
  { id: "version", label: "Version", num: true, cell: (each) => each.version, sort: (each) => each.version },
  {
    id: "use",
    label: "Use",
    cell: (each) =>
      each.active ? (
        <span className="mark mark-ok">
          <span aria-hidden="true">✓</span> in use
        </span>
      ) : each.canary_share > 0 ? (
        <span className="mark mark-run">
          <span aria-hidden="true">▶</span> tried on {percent(each.canary_share, 0)}
        </span>
      ) : (
        DASH
      ),
  },
  { id: "model", label: "Model", cell: (each) => String(each.config.model ?? DASH) },
  { id: "fallback", label: "Fallback", cell: (each) => String(each.config.fallback ?? DASH) },
  { id: "note", label: "Note", cell: (each) => <span className="wrap">{each.note}</span> },
  { id: "by", label: "By", cell: (each) => each.created_by, sort: (each) => each.created_by },
  { id: "at", label: "At (UTC)", num: true, cell: (each) => when(each.created_at) },
];

const TRIALS: Column<Trial>[] = [
  { id: "version", label: "Version", num: true, cell: (trial) => trial.version },
  { id: "submissions", label: "Submissions", num: true, cell: (trial) => num(trial.submissions) },
  { id: "succeeded", label: "Succeeded", num: true, cell: (trial) => num(trial.succeeded) },
  { id: "findings", label: "Findings", num: true, cell: (trial) => num(trial.findings) },
  { id: "resolved", label: "Resolved", num: true, cell: (trial) => percent(trial.resolved_share) },
  { id: "remaining", label: "Remain", num: true, cell: (trial) => num(trial.remaining) },
  { id: "new", label: "New", num: true, cell: (trial) => num(trial.new) },
  { id: "parse", label: "Rebuilt code parses", num: true, cell: (trial) => percent(trial.parse_share) },
];
