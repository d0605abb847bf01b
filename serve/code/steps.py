"""The three steps of code analysis as short jobs. Each reads what the ones before have written, asks its model, and leaves its
result to be committed with the job's end.

Facts come first: the analysers have looked before a model is asked, and what they say is kept whatever the model does.
"""

from __future__ import annotations

import atexit
import functools
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.evaluate.analysers.findings import Analysis, Finding, compare
from raymill.evaluate.analysers.runner import Analysers
from raymill.evaluate.config import SandboxConfig
from raymill.evaluate.sandbox.runner import Program, Sandbox, SandboxRefused
from raymill.policies.errors import Conflict, NotFound
from raymill.registry import code, code_steps
from raymill.registry.artifacts import address_of
from raymill.registry.tables import CodeSubmission
from raymill.serve.code import prompts, report
from raymill.serve.code.answers import ForensicAnswer, QualityAnswer, RebuildAnswer, Unusable
from raymill.serve.code.asking import Said, Step, ask
from raymill.serve.code.faults import FAULTS
from raymill.serve.code.step_config import StepConfig

MOST_GROWTH = 4
"""A rebuilt version may be so many times as large as the original, and a page more."""

PAGE_BYTES = 20_000
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Work:
    """A step and what it works on."""

    step: Step
    row: CodeSubmission
    findings: tuple[Finding, ...]
    """Of the original, by analysers and model; none while these have not looked."""

    @property
    def texts(self) -> dict[str, str]:
        return {file["name"]: file["text"] for file in self.row.files}

    @property
    def languages(self) -> dict[str, str | None]:
        return {file["name"]: file["language"] for file in self.row.files}


def run_forensic(context: JobContext) -> Outcome:
    """What is wrong with the code: by the analysers, then by the model.

    Raises:
        Unavailable, Invalid: as `ask`.
        Conflict: the step has no model.
    """
    work = _open(context, "forensic")
    if work.row.before is None:
        analysis = analysers().analyse(work.texts, work.languages)
        context.database.patiently(
            lambda session: code.save_before(
                session, uuid.UUID(context.job_id), context.epoch, work.row.id, analysis.to_json()
            )
        )
    else:
        analysis = Analysis.from_json(work.row.before)
    facts = [finding.to_json() for finding in analysis.findings]
    parts = [
        ("comment of the author", work.row.comment or "none"),
        ("code", prompts.numbered(work.row.files)),
        ("findings of the analysers", prompts.as_json(facts)),
    ]
    said = ask(work.step, ForensicAnswer, parts)
    found = report.joined(analysis.findings, report.said_findings(said.answer, work.texts))
    return _outcome(
        context,
        said,
        findings=[finding.to_json() for finding in found],
        summary=said.answer.summary,
        dossier=report.dossier(said.answer.summary, found, analysis),
    )


def run_rebuild(context: JobContext) -> Outcome:
    """The repaired files. They must parse, where the original did. Raises as `run_forensic`."""
    work = _open(context, "rebuild")
    before = _analysis(work)
    parts = [
        ("comment of the author", work.row.comment or "none"),
        ("findings", prompts.as_json([finding.to_json() for finding in work.findings])),
        ("files", prompts.as_it_is(work.row.files)),
    ]
    kept: list[Analysis] = []

    def accept(answer: RebuildAnswer) -> None:
        _check_files(work, answer)
        after = analysers().analyse({file.name: file.text for file in answer.files}, work.languages)
        _check_parses(before, after)
        kept[:] = [after]

    said = ask(work.step, RebuildAnswer, parts, accept)
    files: list[JsonObject] = [
        {"name": file.name, "language": work.languages[file.name], "text": file.text}
        for file in said.answer.files
    ]
    return _outcome(
        context, said, files=files, diff=report.unified(work.row.files, files), after=kept[0].to_json()
    )


def run_quality(context: JobContext) -> Outcome:
    """What became of each finding: measured, then as the model sees it. Raises as `run_forensic`."""
    work = _open(context, "quality")
    assert work.row.rebuilt is not None
    assert work.row.after is not None
    before, after = _analysis(work), Analysis.from_json(work.row.after)
    difference = compare(before, after)
    facts = report.measured(before, after, difference, _tested(work.row))
    parts = [
        ("original files", prompts.numbered(work.row.files)),
        ("rebuilt files", prompts.numbered(work.row.rebuilt)),
        ("findings", prompts.as_json([finding.to_json() for finding in work.findings])),
        ("measured difference", prompts.as_json({"numbers": facts, **difference.to_json()})),
    ]
    said = ask(work.step, QualityAnswer, parts)
    return _outcome(
        context,
        said,
        quality=report.quality(said.answer, facts, difference, work.findings),
        outcomes=report.outcomes(work.findings, difference, said.answer),
        new=[finding.to_json() for finding in difference.new],
    )


def analysers() -> Analysers:
    """Those of this process."""
    with _LOCK:
        return _made()


@functools.cache
def _made() -> Analysers:
    made = Analysers()
    atexit.register(made.close)
    return made


def _open(context: JobContext, name: str) -> Work:
    submission_id = uuid.UUID(context.config["submission_id"])
    FAULTS.before_step(context)
    with context.database.transaction() as session:
        row = code.find(session, submission_id)
        version = code_steps.for_submission(session, name, submission_id)
        # The first step has none to go by.
        findings = code.findings_before(session, submission_id) if name != code.STEPS[0] else []
    if version is None:
        raise Conflict(f"step {name} has no model: `raymill code set {name} --model ROUTE` gives it one")
    config = StepConfig.model_validate(version.config)
    return Work(
        Step(context, submission_id, name, version.number, config),
        row,
        tuple(map(Finding.from_json, findings)),
    )


def _analysis(work: Work) -> Analysis:
    if work.row.before is None:
        raise NotFound(f"submission {work.row.id} was not analysed: retry its step forensic")
    return Analysis.from_json(work.row.before)


def _outcome(context: JobContext, said: Said[Any], **result: object) -> Outcome:
    digest = address_of("code", {"job": context.job_id, "epoch": context.epoch}, {})
    return Outcome(result={"digest": digest, "model": said.model, "tries": said.tries, **result})


def _check_files(work: Work, answer: RebuildAnswer) -> None:
    """Raises Unusable: other files than the original's, or far larger ones."""
    names = [file.name for file in answer.files]
    if sorted(names) != sorted(work.texts):
        raise Unusable(
            f"it must hold exactly the {len(work.texts)} submitted files, each once, by their names"
        )
    size = sum(len(file.text.encode(errors="replace")) for file in answer.files)
    if size > MOST_GROWTH * work.row.size_bytes + PAGE_BYTES:
        raise Unusable(f"its files have {size} bytes, far more than the original's {work.row.size_bytes}")
    if any(not file.text.strip() for file in answer.files if work.texts[file.name].strip()):
        raise Unusable("a file is empty that was not")


def _check_parses(before: Analysis, after: Analysis) -> None:
    """Raises Unusable: a file does not parse that did."""
    parsed = {file.file: file.parses for file in before.files}
    for number, file in enumerate(after.files, start=1):
        if parsed.get(file.file) and not file.parses:
            raise Unusable(f"file {number} of its {len(after.files)} does not parse")


def _tested(row: CodeSubmission) -> JsonObject | None:
    """The author's tests in the sandbox, on both versions; None: there are none."""
    if row.tests is None:
        return None
    assert row.rebuilt is not None
    versions = {"before": row.files, "after": row.rebuilt}
    return {name: _verdict(row.tests, files) for name, files in versions.items()}


def _verdict(tests: JsonObject, files: list[JsonObject]) -> JsonObject:
    source = next(file["text"] for file in files if file["name"] == tests["file"])
    program = Program(solution=source, prompt="", test=tests["code"], entry_point=tests["entry_point"])
    try:
        verdict = Sandbox(SandboxConfig()).run(program)
    except SandboxRefused as error:
        return {"passed": None, "reason": "refused", "detail": str(error)[:500]}
    return {"passed": verdict.passed, "reason": verdict.reason, "detail": verdict.detail[:500]}
