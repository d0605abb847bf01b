/** What was found, line by line, and which files were looked at by what. */
import type { Schemas } from "../api";
import { DASH } from "../fmt";
import { Panel } from "../ui/page";
import { Empty } from "../ui/state";
import { type Column, Table } from "../ui/table";

type Finding = Schemas["CodeFinding"];

const RANK = { low: 0, medium: 1, high: 2 };
const LOOKS = { low: ["·", "idle"], medium: ["!", "warn"], high: ["✕", "bad"] } as const;
/** Measured ones have a sign and a colour; what a model alone says has neither. */
const OUTCOMES: Record<string, readonly [string, string, string]> = {
  resolved: ["✓", "ok", "resolved"],
  remaining: ["✕", "bad", "remains"],
  new: ["✕", "bad", "new"],
  unchecked: ["!", "warn", "not checked"],
  said_resolved: ["·", "idle", "resolved, says the model"],
  said_not_resolved: ["·", "idle", "remains, says the model"],
  not_judged: ["·", "idle", "not judged"],
};

function Mark({ of: [sign, look, word] }: { of: readonly [string, string, string] }) {
  return (
    <span className={`mark mark-${look}`}>
      <span aria-hidden="true">{sign}</span> {word}
    </span>
  );
}

export function Findings({ review }: { review: Schemas["SubmissionDetail"] }) {
  const analysed = ["succeeded"].includes(review.steps.find((step) => step.step === "forensic")?.state ?? "");
  return (
    <>
      {review.summary && (
        <Panel title="Summary, by the model">
          <p>{review.summary}</p>
        </Panel>
      )}
      <Table
        caption="Findings, by file and line"
        columns={FINDINGS}
        rows={[...review.findings].sort(
          (one, other) => one.file.localeCompare(other.file) || one.line_start - other.line_start,
        )}
        rowKey={(finding) => finding.id}
        empty={
          analysed ? (
            <Empty title="Nothing was found" />
          ) : (
            <Empty title="No finding yet">The first step looks for them.</Empty>
          )
        }
      />
      {review.looked_at.length > 0 && (
        <Panel title="What was looked at">
          <Table
            caption="Files, and what looked at them"
            columns={LOOKED_AT}
            rows={review.looked_at}
            rowKey={(file) => String(file.file)}
          />
        </Panel>
      )}
    </>
  );
}

const FINDINGS: Column<Finding>[] = [
  {
    id: "line",
    label: "Line",
    cell: (finding) => (
      <code>
        {finding.file}:{finding.line_start}
        {finding.line_end > finding.line_start && `–${finding.line_end}`}
      </code>
    ),
  },
  {
    id: "severity",
    label: "Severity",
    cell: (finding) => <Mark of={[...LOOKS[finding.severity], finding.severity]} />,
    sort: (finding) => RANK[finding.severity],
  },
  {
    id: "title",
    label: "Finding",
    cell: (finding) => (
      <span className="wrap">
        {finding.title} {finding.cwe && <span className="small">{finding.cwe}</span>}
      </span>
    ),
    sort: (finding) => finding.title,
  },
  {
    id: "evidence",
    label: "Evidence",
    cell: (finding) => (
      <span className="wrap">
        <code>{finding.evidence}</code>
      </span>
    ),
  },
  {
    id: "confidence",
    label: "Confidence",
    cell: (finding) => finding.confidence,
    sort: (finding) => RANK[finding.confidence],
  },
  { id: "sources", label: "Found by", cell: (finding) => finding.sources.join(", ") },
  {
    id: "outcome",
    label: "Outcome",
    cell: (finding) =>
      finding.outcome === null ? (
        DASH
      ) : (
        <Mark of={OUTCOMES[finding.outcome] ?? ["·", "idle", finding.outcome]} />
      ),
    sort: (finding) => finding.outcome,
  },
];

function listed(value: unknown): string {
  return Array.isArray(value) && value.length > 0 ? value.join(", ") : DASH;
}

const LOOKED_AT: Column<Record<string, unknown>>[] = [
  { id: "file", label: "File", cell: (file) => <code>{String(file.file)}</code> },
  { id: "language", label: "Language", cell: (file) => String(file.language ?? DASH) },
  {
    id: "parses",
    label: "Parses",
    cell: (file) => (file.parses === null ? "was not parsed" : file.parses ? "✓ yes" : "✕ no"),
  },
  { id: "analysers", label: "Analysers", cell: (file) => listed(file.analysers) },
  {
    id: "problems",
    label: "Problems",
    cell: (file) => <span className="wrap">{listed(file.problems)}</span>,
  },
];
