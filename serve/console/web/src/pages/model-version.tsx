/** One version: where it comes from, whether it is signed, its files and its card. */
import { Link, useParams } from "wouter";
import { $api, api, type Schemas } from "../api";
import { DASH, sig, when } from "../fmt";
import { Action } from "../ui/action";
import { ReasonAction } from "../ui/call-form";
import { ButtonLink, Facts, Pre, Tabs } from "../ui/controls";
import { May, Page, Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useParam } from "../url";
import { Json } from "./job";
import { scoresOf } from "./model";
import { Files } from "./registry/files";
import { MovesOf } from "./registry/history";
import { LineageGraph } from "./registry/lineage";
import { Proof } from "./registry/proof";

type Lineage = Schemas["Lineage"];
const TABS = [
  ["lineage", "Lineage"],
  ["proof", "Attestation"],
  ["files", "Files"],
  ["card", "Model card"],
  ["recipe", "Recipe"],
] as const;

export default function ModelVersion() {
  const { name = "", number = "" } = useParams();
  const [tab, setTab] = useParam("tab", "lineage");
  const query = $api.useQuery("get", "/api/v1/llms/{name}/versions/{number}/lineage", {
    params: { path: { name, number: Number(number) } },
  });
  return (
    <Page title={`${name} ${number}`} actions={query.data && <VersionActions version={query.data.version} />}>
      <Loaded query={query} what="this version">
        {(lineage) => (
          <>
            <VersionFacts lineage={lineage} />
            <Tabs label="About this version" tabs={TABS} chosen={tab} choose={setTab}>
              {tab === "lineage" && <LineageTab lineage={lineage} />}
              {tab === "proof" && <Proof lineage={lineage} />}
              {tab === "files" && <Files lineage={lineage} />}
              {tab === "card" && <Card runId={lineage.version.job_id} />}
              {tab === "recipe" && <Json title="The recipe it was made by" value={lineage.recipe} />}
            </Tabs>
          </>
        )}
      </Loaded>
      <p className="small">
        <Link href={`/registry/${name}`}>All versions of {name}</Link>
      </p>
    </Page>
  );
}

function VersionActions({ version }: { version: Schemas["Version"] }) {
  const path = { params: { path: { name: version.llm, number: version.number } } };
  if (version.archived) {
    return (
      <Action
        call="POST /api/v1/llms/{name}/versions/{number}/restore"
        label="Restore"
        run={() => api.POST("/api/v1/llms/{name}/versions/{number}/restore", path)}
      />
    );
  }
  return (
    <>
      <May call="POST /api/v1/promotions">
        <ButtonLink href={`/promotions?tab=new&llm=${version.llm}&version=${version.number}`} look="main">
          Promote
        </ButtonLink>
      </May>
      {version.aliases.length === 0 && (
        <ReasonAction
          call="POST /api/v1/llms/{name}/versions/{number}/archive"
          label="Archive"
          title={`Put ${version.llm} ${version.number} away?`}
          text="It can be neither promoted nor served until it is restored."
          run={(reason) =>
            api.POST("/api/v1/llms/{name}/versions/{number}/archive", { ...path, body: { reason } })
          }
        />
      )}
    </>
  );
}

function VersionFacts({ lineage }: { lineage: Lineage }) {
  const { version, attestations } = lineage;
  const signed = attestations.some((each) => each.artifact_name === version.artifact_name);
  return (
    <Facts
      of={[
        ["Aliases", version.aliases.join(", ") || DASH],
        [
          "Attestation",
          signed ? (
            <span key="signed" className="mark mark-ok">
              <span aria-hidden="true">✓</span> signed
            </span>
          ) : (
            <span key="signed" className="mark mark-idle">
              ○ not signed: a promotion does
            </span>
          ),
        ],
        ["State", version.archived ? "⊘ archived" : "kept"],
        ["Scores", scoresOf(version.scores)],
        ["Created (UTC)", when(version.created_at)],
        [
          "Run",
          <Link key="run" href={`/runs/${version.job_id}`}>
            {version.job_id}
          </Link>,
        ],
        ["Artifact", version.artifact_name],
      ]}
    />
  );
}

function LineageTab({ lineage }: { lineage: Lineage }) {
  return (
    <>
      <LineageGraph lineage={lineage} />
      <div className="panels">
        <Panel title="Aliases that pointed to it">
          <MovesOf moves={lineage.alias_moves} />
        </Panel>
        <Panel title="Training">
          <Facts
            of={[
              ["Steps", String(lineage.training.steps ?? DASH)],
              ["Final loss", numberOf(lineage.training.final_loss)],
              ["Tokens/s", numberOf(lineage.training.tokens_per_s)],
              ["Seconds", numberOf(lineage.training.seconds)],
            ]}
          />
        </Panel>
      </div>
      <Panel title="Scores">
        <Table
          caption="What was measured of it, its base and its files"
          columns={SCORES}
          rows={lineage.evaluations}
          rowKey={(each) => `${each.artifact_name} ${each.variant} ${each.task} ${each.created_at}`}
          empty={<Empty title="Nothing was measured of it" />}
        />
      </Panel>
    </>
  );
}

function Card({ runId }: { runId: string }) {
  const query = $api.useQuery("get", "/api/v1/runs/{run_id}/card", {
    params: { path: { run_id: runId } },
    parseAs: "text",
  });
  return (
    <Panel title="Model card, with what is known by now">
      <Loaded query={query} what="the model card">
        {(text) => <Pre label="Model card">{text}</Pre>}
      </Loaded>
    </Panel>
  );
}

function numberOf(value: unknown): string {
  return typeof value === "number" ? sig(value) : DASH;
}

const SCORES: Column<Schemas["Evaluation"]>[] = [
  { id: "task", label: "Task", cell: (each) => each.task, sort: (each) => each.task },
  { id: "of", label: "Of", cell: (each) => each.artifact_name, sort: (each) => each.artifact_name },
  { id: "variant", label: "Variant", cell: (each) => each.variant || DASH },
  { id: "score", label: "Score", num: true, cell: (each) => sig(each.score), sort: (each) => each.score },
  { id: "n", label: "Examples", num: true, cell: (each) => each.samples },
  { id: "at", label: "At (UTC)", num: true, cell: (each) => when(each.created_at) },
];
