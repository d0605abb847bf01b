/** What the rebuilding did: what was measured, and beside it what the model says, which changes none of that. */
import type { Schemas } from "../api";
import { DASH, num, percent } from "../fmt";
import { Bar, Facts, Pre } from "../ui/controls";
import { Panel } from "../ui/page";
import { Empty } from "../ui/state";

type Verdict = { passed: boolean | null; reason: string; detail: string };
/** As `serve/code/report.py` makes it; the API's document calls it an object. */
type Quality = {
  rating: number;
  rating_at_most: number;
  measured: {
    resolved: number;
    remaining: number;
    new: number;
    unchecked: number;
    findings_before: number;
    findings_after: number;
    removed_share: number | null;
    parses_before: boolean | null;
    parses_after: boolean | null;
    analysers: string[];
    problems: string[];
    tests: { before: Verdict | null; after: Verdict | null } | null;
  };
  model: {
    confidence: number;
    reason: string;
    changes: { what: string; why: string }[];
    findings: { id: string; verdict: string; why: string }[];
  };
};

export function Report({ review }: { review: Schemas["SubmissionDetail"] }) {
  if (review.quality === null) return <Empty title="No report yet">The third step writes it.</Empty>;
  const { rating, rating_at_most: most, measured, model } = review.quality as unknown as Quality;
  return (
    <>
      <Panel title={`Rating: ${num(rating)} of 100`}>
        <Bar share={rating / 100} label="Rating" />
        <p className="small">
          The model says {num(model.confidence)}; what was measured allows {num(most)} at most.
        </p>
      </Panel>
      <div className="panels">
        <Panel title="Measured">
          <Facts
            of={[
              ["Findings", `${num(measured.findings_before)} → ${num(measured.findings_after)}`],
              ["Resolved", num(measured.resolved)],
              ["Remain", num(measured.remaining)],
              ["New", num(measured.new)],
              ["Not checked", num(measured.unchecked)],
              ["Removed", percent(measured.removed_share)],
              ["Parses", `${yesOrNo(measured.parses_before)} → ${yesOrNo(measured.parses_after)}`],
              ["Analysers", measured.analysers.join(", ") || DASH],
              ["Tests", testsOf(measured.tests)],
            ]}
          />
          {measured.problems.map((problem) => (
            <p className="small" key={problem}>
              {problem}
            </p>
          ))}
          {measured.tests?.after?.detail && <Pre label="The tests' words">{measured.tests.after.detail}</Pre>}
        </Panel>
        <Panel title="Says the model">
          {model.reason && <p>{model.reason}</p>}
          <ul className="stack">
            {model.changes.map((change) => (
              <li key={change.what}>
                <b>{change.what}</b> <span className="small">{change.why}</span>
              </li>
            ))}
            {model.findings.map((each) => (
              <li key={each.id}>
                <code>{each.id}</code> {each.verdict.replace("_", " ")}{" "}
                <span className="small">{each.why}</span>
              </li>
            ))}
          </ul>
        </Panel>
      </div>
    </>
  );
}

function yesOrNo(value: boolean | null): string {
  return value === null ? "not all parsed" : value ? "yes" : "no";
}

function testsOf(tests: Quality["measured"]["tests"]): string {
  if (!tests) return "none";
  const word = (verdict: Verdict | null) => (verdict?.passed ? "passed" : (verdict?.reason ?? "not run"));
  return `${word(tests.before)} → ${word(tests.after)}`;
}
