"""Wire types of code analysis: `/code/v1`. Lines count from 1; money is micro-dollars; times are ISO 8601."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Literal

from pydantic import Field

from raymill.client.control_types import Body
from raymill.client.types import JsonObject, State, Wire

Step = Literal["forensic", "rebuild", "quality"]
Fault = Literal["provider_outage", "slow_answers", "rate_limits", "database_away"]
STEPS: tuple[Step, ...] = ("forensic", "rebuild", "quality")
FAULTS: tuple[Fault, ...] = ("provider_outage", "slow_answers", "rate_limits", "database_away")

MOST_LETTERS = 10_000_000


class CodeFile(Body):
    name: str = Field(min_length=1, max_length=200)
    """Relative, with `/` between folders."""

    text: str = Field(max_length=MOST_LETTERS)
    language: str | None = Field(default=None, max_length=32)
    """Told by name and content when it is not said."""


class CodeTests(Body):
    """Python tests of the author, run in the sandbox on both versions: `check(candidate)`, as HumanEval has it."""

    code: str = Field(min_length=1, max_length=100_000)
    entry_point: str = Field(pattern=r"^[A-Za-z_]\w{0,99}$")
    """The function that `check` is given."""

    file: str | None = Field(default=None, max_length=200)
    """That defines it; the only one by default."""


class SubmissionRequest(Body):
    """Body of `POST /code/v1/submissions`: one of `code`, `files` and `patch`."""

    code: str | None = Field(default=None, max_length=MOST_LETTERS)
    files: list[CodeFile] | None = Field(default=None, min_length=1, max_length=100)
    patch: str | None = Field(default=None, max_length=MOST_LETTERS)
    """A unified diff: what it leaves of each file, changed lines and those around them, is what is looked at."""

    language: str | None = Field(default=None, max_length=32)
    """Of all that names none of its own."""

    comment: str = Field(default="", max_length=4000)
    tests: CodeTests | None = None


class CodeFinding(Wire):
    id: str
    title: str
    cwe: str | None
    severity: Literal["low", "medium", "high"]
    file: str
    line_start: int
    line_end: int
    evidence: str
    confidence: Literal["low", "medium", "high"]
    sources: list[str]
    """Analysers, and `model`."""

    outcome: str | None
    """resolved, remaining, new or unchecked: measured. said_resolved, said_not_resolved, not_judged: of what only the
    model has seen. Null until the quality step has ended."""


class CodeStepState(Wire):
    """One step of a submission."""

    step: Step
    state: State
    attempt: int
    job_id: uuid.UUID
    error: str | None
    model: str | None
    """That gave the answer which was used."""


class CodeAnswer(Wire):
    """What a model answered to one question."""

    id: uuid.UUID
    step: Step
    attempt: int
    number: int
    step_version: int
    model: str
    problem: str | None
    """Why it could not be used; null: it was."""

    content: str
    prompt_tokens: int
    completion_tokens: int
    cost_micro_usd: int | None
    """Null until the gateway's record has arrived."""

    latency_ms: float
    at: dt.datetime


class Submission(Wire):
    """A submission in a list."""

    id: uuid.UUID
    state: State
    step: Step | None
    """That runs or waits; null when it is over."""

    error: str | None
    language: str | None
    files: list[str]
    size_bytes: int
    comment: str
    created_by: str
    created_at: dt.datetime
    finished_at: dt.datetime | None


class SubmissionDetail(Submission):
    pipeline_id: uuid.UUID
    steps: list[CodeStepState]
    findings: list[CodeFinding]
    looked_at: list[JsonObject]
    """By file: language, whether it parses, which analysers looked at it to the end, what could not be done."""

    summary: str | None
    dossier: str | None
    """Markdown."""

    rebuilt: list[CodeFile] | None
    diff: str | None
    """Unified."""

    quality: JsonObject | None
    """measured, rating, rating_at_most, model."""


class CodeStepSettings(Body):
    """Body of `PUT /code/v1/steps/{step}`: another version."""

    model: str = Field(min_length=1, max_length=200)
    fallback: str | None = Field(default=None, min_length=1, max_length=200)
    prompt: str | None = Field(default=None, min_length=1, max_length=20_000)
    params: JsonObject = Field(default_factory=dict)
    max_tokens: int = Field(default=4096, ge=1, le=200_000)
    timeout_s: float = Field(default=120.0, gt=0, le=600)
    note: str = Field(default="", max_length=500)
    use: bool = True
    """False keeps it, to be tried as a canary."""


class CodeStepVersion(Wire):
    step: Step
    version: int
    active: bool
    canary_share: float
    """Of the submissions that it is tried on; 0 unless it is the canary."""

    config: JsonObject
    note: str
    created_by: str
    created_at: dt.datetime


class CodeStepUse(Body):
    """Body of `POST /code/v1/steps/{step}/use`: an earlier version again."""

    version: int = Field(ge=1, le=1_000_000)


class CodeCanary(Body):
    """Body of `PUT /code/v1/steps/{step}/canary`: a version to be tried on a share of the submissions; null ends that."""

    version: int | None = Field(default=None, ge=1, le=1_000_000)
    share: float = Field(default=0.1, ge=0, le=1)


class CodeTrial(Wire):
    """How the submissions went whose step was done by one version. Findings are the analysers'."""

    version: int
    active: bool
    canary_share: float
    submissions: int
    succeeded: int
    findings: int
    resolved: int
    remaining: int
    new: int
    resolved_share: float | None
    """Null while there are no findings."""

    parse_share: float | None
    """Of rebuilt code whose original parses."""


class CodeExperimentRequest(Body):
    """Body of `POST /code/v1/experiments`."""

    fault: Fault
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the questions, or steps, that it meets."""

    delay_s: float = Field(default=1.0, ge=0, le=60)
    """Of slow_answers."""

    seconds: float = Field(default=60.0, gt=0, le=3600)
    """After which it ends by itself."""


class CodeExperiment(Wire):
    """A fault that is put into code analysis on purpose."""

    id: uuid.UUID
    fault: Fault
    share: float
    delay_s: float
    until: dt.datetime
    started_by: str
    started_at: dt.datetime
    stopped_at: dt.datetime | None
    """By somebody, before its time."""
