/** Whether a version is what was registered and signed, and what it was made with. */
import { useState } from "react";
import { $api, api, type Schemas } from "../../api";
import { num, when } from "../../fmt";
import { Action } from "../../ui/action";
import { Button, Facts } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded, Notice } from "../../ui/state";
import { type Column, Table } from "../../ui/table";

type Attestation = Schemas["Lineage"]["attestations"][number];
type Verification = Schemas["Verification"];
type Component = { name?: string; version?: string; licenses?: unknown[] };

export function Proof({ lineage }: { lineage: Schemas["Lineage"] }) {
  const { version, attestations } = lineage;
  const path = { params: { path: { name: version.llm, number: version.number } } };
  const [found, setFound] = useState<Verification | null>(null);
  return (
    <>
      <Panel
        title="Signatures"
        actions={
          <Action
            call="GET /api/v1/llms/{name}/versions/{number}/verify"
            label="Verify every byte"
            run={async () => {
              setFound(null);
              const { data } = await api.GET("/api/v1/llms/{name}/versions/{number}/verify", path);
              setFound(data ?? null);
            }}
          />
        }
      >
        {found && (
          <Notice kind={found.verified ? "ok" : "bad"}>
            {found.artifacts
              .map((each) => `${each.name}: ${each.files} files${each.signed ? ", signed" : ", not signed"}`)
              .join("; ")}
            . Every byte is the one that was registered.
          </Notice>
        )}
        <Table
          caption="Attestations"
          columns={ATTESTATIONS}
          rows={attestations}
          rowKey={(each) => `${each.artifact_name} ${each.created_at}`}
          empty={<Empty title="Nothing of it is signed yet">A promotion that is allowed signs it.</Empty>}
        />
      </Panel>
      <Sbom name={version.llm} number={version.number} />
    </>
  );
}

/** Long, and not of every day: asked for by a click. */
function Sbom({ name, number }: { name: string; number: number }) {
  const [asked, ask] = useState(false);
  const query = $api.useQuery(
    "get",
    "/api/v1/llms/{name}/versions/{number}/sbom",
    { params: { path: { name, number } } },
    { enabled: asked, refetchInterval: false },
  );
  return (
    <Panel
      title="Packages that made it"
      actions={asked ? undefined : <Button onClick={() => ask(true)}>Show</Button>}
    >
      {asked && (
        <Loaded query={query} what="the list of packages">
          {(found) => {
            const parts = (found.document.components ?? []) as Component[];
            return (
              <>
                <Facts
                  of={[
                    ["Packages", num(parts.length)],
                    ["Digest", found.digest],
                  ]}
                />
                <div className="actions">
                  <Button onClick={() => save(`${name}-${number}.cdx.json`, found.document)}>
                    Save as CycloneDX
                  </Button>
                </div>
                <Table
                  caption="Packages"
                  columns={PARTS}
                  rows={parts}
                  rowKey={(each) => `${each.name} ${each.version}`}
                />
              </>
            );
          }}
        </Loaded>
      )}
    </Panel>
  );
}

function save(name: string, value: unknown) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

/** CycloneDX names a licence by its SPDX id, its name, or an expression. */
function licencesOf(part: Component): string {
  const told = (part.licenses ?? []) as { license?: { id?: string; name?: string }; expression?: string }[];
  return told.map((each) => each.expression ?? each.license?.id ?? each.license?.name ?? "").join(", ");
}

const ATTESTATIONS: Column<Attestation>[] = [
  { id: "name", label: "Artifact", cell: (each) => String(each.artifact_name) },
  { id: "key", label: "Key", cell: (each) => <code>{String(each.key_id)}</code> },
  { id: "at", label: "Signed (UTC)", num: true, cell: (each) => when(String(each.created_at), true) },
];

const PARTS: Column<Component>[] = [
  { id: "name", label: "Package", cell: (each) => each.name, sort: (each) => each.name },
  { id: "version", label: "Version", cell: (each) => each.version },
  { id: "licence", label: "Licence", cell: (each) => <span className="wrap">{licencesOf(each)}</span> },
];
