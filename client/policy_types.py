"""The wire types of promotion rules: saved, tested, explained, replayed."""

from __future__ import annotations

import datetime as dt
import uuid

from pydantic import BaseModel, ConfigDict, Field

from raymill.client.types import JsonObject, Wire

Files = dict[str, str]
"""Name, such as promotion.rego -> text. Those that end in _test.rego are tests."""


class PolicyFiles(BaseModel):
    """Body of `POST /api/v1/policies/test`."""

    model_config = ConfigDict(extra="forbid")

    files: Files = Field(min_length=1, max_length=20)


class PolicyRequest(PolicyFiles):
    """Body of `POST /api/v1/policies`."""

    name: str = Field(max_length=64)


class DryRunRequest(PolicyFiles):
    """Body of `POST /api/v1/policies/dry-run`."""

    alias: str | None = Field(default=None, max_length=64)
    """Of promotions to this alias alone."""
    limit: int = Field(default=100, ge=1, le=1000)
    """Of the newest so many."""


class Policy(Wire):
    """A version of promotion rules."""

    name: str
    number: int
    bundle_digest: str
    """sha256 over the files that decide; files of tests do not count."""
    files: Files
    created_by: str
    created_at: dt.datetime


class RuleOutcome(Wire):
    """How a `test_` rule went."""

    name: str
    passed: bool
    message: str


class PolicyTests(Wire):
    passed: bool
    tests: list[RuleOutcome]


class ChangedDecision(Wire):
    """A promotion on which other rules would have decided otherwise."""

    promotion_id: uuid.UUID
    llm: str
    version: int
    alias: str
    allowed: bool
    """By these rules; it was decided the other way."""
    reasons: list[str]


class DryRun(Wire):
    asked: int
    """So many promotions were looked at."""
    changed: list[ChangedDecision]


class Finding(Wire):
    """A sentence against a promotion, and where it comes from."""

    sentence: str
    rule: str
    """File and line of the rule."""
    source: str
    looked_at: JsonObject
    """Of the input: what the rule looked at."""


class Explanation(Wire):
    promotion_id: uuid.UUID
    policy: str
    allowed: bool
    findings: list[Finding]


class Replay(Wire):
    """A stored decision, made again by the rules and from the input that are stored with it."""

    promotion_id: uuid.UUID
    policy: str
    same: bool
    """Verdict, reasons and both digests are those on record."""
    allowed: bool
    reasons: list[str]
    input_digest: str
    bundle_digest: str
