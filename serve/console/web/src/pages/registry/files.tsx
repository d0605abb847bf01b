/** The files of a version and of what was made of it, with their digests. */
import type { Schemas } from "../../api";
import { bytes, DASH, percent, sig } from "../../fmt";
import { Facts } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty } from "../../ui/state";
import { type Column, Table } from "../../ui/table";

type Artifact = Schemas["Artifact"];
type Quantization = Schemas["Quantization"];

export function Files({ lineage }: { lineage: Schemas["Lineage"] }) {
  return (
    <>
      <ArtifactFiles title="Model" artifact={lineage.model} />
      {lineage.quantizations.length > 0 && (
        <Panel title="With fewer bits">
          <Table
            caption="Files with fewer bits"
            columns={QUANTIZED}
            rows={lineage.quantizations}
            rowKey={(each) => `${each.artifact_name} ${each.file}`}
          />
        </Panel>
      )}
      {lineage.quantized.map((each) => (
        <ArtifactFiles key={each.name} title="Quantized" artifact={each} />
      ))}
      <ArtifactFiles title="Base" artifact={lineage.base} />
    </>
  );
}

function ArtifactFiles({ title, artifact }: { title: string; artifact: Artifact }) {
  return (
    <Panel title={`${title}: ${artifact.name}`}>
      <Facts
        of={[
          ["Size", bytes(artifact.size_bytes)],
          ["Digest", artifact.digest],
        ]}
      />
      <Table
        caption={`Files of ${artifact.name}`}
        columns={FILES}
        rows={artifact.files}
        rowKey={(each) => each.path}
        empty={<Empty title="It has no files" />}
      />
    </Panel>
  );
}

const FILES: Column<Schemas["FileDigest"]>[] = [
  { id: "path", label: "File", cell: (each) => each.path, sort: (each) => each.path },
  {
    id: "size",
    label: "Size",
    num: true,
    cell: (each) => bytes(each.size_bytes),
    sort: (each) => each.size_bytes,
  },
  { id: "sha", label: "SHA-256", cell: (each) => <code>{each.sha256}</code> },
];

function agreementOf(each: Quantization): string {
  const { agreement } = each.parity;
  return typeof agreement === "number" ? percent(agreement) : DASH;
}

const QUANTIZED: Column<Quantization>[] = [
  { id: "type", label: "Type", cell: (each) => each.type },
  { id: "file", label: "File", cell: (each) => each.file },
  { id: "size", label: "Size", num: true, cell: (each) => bytes(each.size_bytes) },
  { id: "parity", label: "Same answers", num: true, cell: agreementOf },
  {
    id: "scores",
    label: "Scores",
    cell: (each) =>
      Object.entries(each.scores)
        .map(([task, score]) => `${task} ${sig(score)}`)
        .join(", ") || DASH,
  },
  { id: "sha", label: "SHA-256", cell: (each) => <code>{each.sha256}</code> },
];
