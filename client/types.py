"""The wire types of `/api/v1`: what the control plane answers, the client parses and the command prints.

Times are ISO 8601 with a time zone; sizes are bytes; durations are seconds. Imports nothing heavy.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from raymill.registry.canary_config import CanaryConfig

JsonObject = dict[str, Any]
State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled", "dead"]
TERMINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled", "dead"})
ImageFormat = Literal["png", "svg"]
Scope = Literal["gateway", "read", "write"]
"""/v1; looking at /api/v1; changing it, which includes looking."""

RoleName = Literal["viewer", "operator", "approver", "admin"]


class Wire(BaseModel):
    """Unknown fields are kept out of the way, so that an older client reads a newer server."""

    model_config = ConfigDict(frozen=True, from_attributes=True, extra="ignore")


Item = TypeVar("Item")


class Page(Wire, Generic[Item]):
    """One page of a list, newest first."""

    data: list[Item]
    next_cursor: str | None = None
    """Give it as `cursor` to get the next page; null on the last one."""


class ErrorBody(Wire):
    type: str
    code: str
    message: str
    param: str | None = None
    request_id: str | None = None


class ErrorEnvelope(Wire):
    error: ErrorBody


class Job(Wire):
    """A step of a pipeline, or a job that stands alone."""

    id: uuid.UUID
    pipeline_id: uuid.UUID | None
    """Null: it stands alone."""
    step: str
    """Of the pipeline; a job that stands alone has its kind here."""
    kind: str
    queue: str
    name: str
    state: State
    priority: int = 1
    """0 low, 1 normal, 2 high, 3 urgent."""
    run_at: dt.datetime | None = None
    """Not before; after a failure the time of the next try."""
    attempt: int
    max_attempts: int
    failures: dict[str, int] = Field(default_factory=dict)
    """Class of error -> how often; `input`, `transient`, `resource`, `unexpected`."""
    losses: int = 0
    """Workers lost in a row without any progress."""
    epoch: int
    worker: str | None = None
    """Who works, or last worked, on it."""
    dashboard_url: str | None = None
    """Page of its newest attempt in Ray's dashboard, which listens on the head's loopback; null for short jobs, and in lists."""
    unique_key: str | None = None
    """While a job of it has not ended, another one is that one."""
    concurrency_key: str | None = None
    concurrency_limit: int = 1
    """How many jobs of the key run at once."""
    gpus: int = 0
    cpus: int = 1
    """What it holds of the cluster while it runs; counted against its team's quota."""
    accelerator: str | None = None
    """The type that its GPUs must be of, or `any`: it waits for them. Null: it waits for none."""
    waiting: str | None = None
    """Why it waits, in words; null unless it is queued or paused."""
    cancel_requested_at: dt.datetime | None = None
    pause_requested_at: dt.datetime | None = None
    address: str | None
    reused_job_id: uuid.UUID | None
    """The job whose result this one took over, because it has the same address."""
    config: JsonObject
    result: JsonObject | None
    error: str | None
    last_log: str | None = None
    """The end of what it wrote before it was taken for what kills its workers."""
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None


class Pipeline(Wire):
    """A recipe being run."""

    id: uuid.UUID
    name: str
    state: State
    error: str | None
    created_by: str
    created_at: dt.datetime
    finished_at: dt.datetime | None
    recipe: JsonObject
    jobs: list[Job] = Field(default_factory=list)
    """In the order in which they can run."""


class PipelineRequest(BaseModel):
    """Body of `POST /api/v1/pipelines`."""

    model_config = ConfigDict(extra="forbid")

    recipe: JsonObject
    dry_run: bool = False
    """Check and resolve only: answers 200 with the resolved recipe and steps, writes nothing."""


class JobEvent(Wire):
    """Something a job said; `id` resumes the stream after it."""

    id: int | None = None
    """Null: nobody wrote it; it is what the job's row says now."""
    job_id: uuid.UUID
    pipeline_id: uuid.UUID | None = None
    """Null: the job stands alone."""
    kind: str
    """state, phase, step, progress, log, or a kind of the job's own."""
    data: JsonObject
    at: dt.datetime


class FileDigest(Wire):
    path: str
    size_bytes: int
    sha256: str


class Artifact(Wire):
    name: str
    digest: str
    size_bytes: int
    files: list[FileDigest]
    created_at: dt.datetime


class Dataset(Wire):
    id: uuid.UUID
    name: str
    number: int
    digest: str
    artifact_name: str
    train_rows: int
    test_rows: int
    format: str
    shape: str = "conversation"
    """conversation, preference, kto or text; which methods can be trained on it."""
    purpose: str = "training"
    """evaluation: nothing is trained on it, and training sets must keep away from it."""
    created_at: dt.datetime


class Llm(Wire):
    id: uuid.UUID
    name: str
    latest_version: int | None
    aliases: dict[str, int]
    """Alias -> version number."""
    frozen: list[str] = []
    """Aliases that may not move now."""
    created_at: dt.datetime


class Version(Wire):
    id: uuid.UUID
    llm: str
    number: int
    artifact_name: str
    base_artifact_name: str
    dataset_id: uuid.UUID
    job_id: uuid.UUID
    aliases: list[str]
    scores: dict[str, float]
    archived: bool = False
    """It can be neither promoted nor served."""
    created_at: dt.datetime


class AliasMove(Wire):
    alias: str
    version: int
    previous_version: int | None
    actor: str
    moved_at: dt.datetime
    promotion_id: uuid.UUID


PromotionState = Literal[
    "pending", "approved", "canary", "executed", "refused", "rejected", "expired", "aborted"
]
CanaryState = Literal["pending", "starting", "running", "advanced", "ended"]


class Approval(Wire):
    account: str
    role: str
    created_at: dt.datetime


class CanarySide(Wire):
    """One version's requests since the canary takes its present share."""

    version: int
    requests: int = 0
    errors: int = 0
    error_rate: float = 0.0
    p95_ms: float | None = None
    """Of the latency of whole answers."""
    scores: int = 0
    score_mean: float | None = None
    """Of the requests' feedback, -1 to 1."""


class Canary(Wire):
    """How a version does that answers a share of an alias's requests before the alias moves."""

    state: CanaryState
    share: float
    shares: list[float]
    """One after the other."""
    canary: CanarySide
    current: CanarySide
    since: dt.datetime | None
    """It takes this share; null: it was not ready yet."""
    measured_at: dt.datetime | None
    left_s: float | None
    """Until it may go on; null: it was not ready yet, or is over."""
    decides: str
    """What it goes on by, or why it ended."""
    config: CanaryConfig
    ended_at: dt.datetime | None = None


class Promotion(Wire):
    """A wish to move an alias: what the policy said, who approved, what became of it."""

    id: uuid.UUID
    llm: str
    version: int
    alias: str
    allowed: bool
    reasons: list[str]
    input: JsonObject
    input_digest: str
    bundle_digest: str
    requested_by: str
    created_at: dt.datetime
    state: PromotionState
    rollback: bool = False
    approvals_needed: int = 0
    approver_roles: list[str] = []
    approvals: list[Approval] = []
    expires_at: dt.datetime | None = None
    """Null: it waits for nothing, and never did."""
    closed_at: dt.datetime | None = None
    closed_by: str | None = None
    """Who executed or rejected it after it had waited."""
    note: str | None = None
    """Why it was rejected, aborted or rolled back."""
    canary: Canary | None = None
    """Null: the alias moves at once, or there was no canary yet."""


class PromotionRequest(BaseModel):
    """Body of `POST /api/v1/promotions`."""

    model_config = ConfigDict(extra="forbid")

    llm: str
    version: int = Field(ge=1)
    to: str = "production"
    require: dict[str, JsonObject] = Field(default_factory=dict)
    canary: CanaryConfig | None = None
    """Null: as the environment says."""


class Quantization(Wire):
    type: str
    artifact_name: str
    file: str
    size_bytes: int
    sha256: str
    tensors: dict[str, int]
    parity: JsonObject
    scores: dict[str, float]


class Evaluation(Wire):
    artifact_name: str
    variant: str
    task: str
    score: float
    samples: int
    created_at: dt.datetime


class Lineage(Wire):
    """The chain behind a version: data, base, run, scores, files, decisions and signatures."""

    version: Version
    dataset: Dataset
    base: Artifact
    model: Artifact
    recipe: JsonObject
    training: JsonObject
    evaluations: list[Evaluation]
    quantizations: list[Quantization]
    quantized: list[Artifact]
    promotions: list[Promotion]
    attestations: list[JsonObject]
    """artifact_name, key_id, created_at and the DSSE envelope."""
    alias_moves: list[AliasMove]


class Deployment(Wire):
    llm: str
    alias: str
    version: int | None
    state: Literal["starting", "ready", "failed"]
    message: str
    config: JsonObject
    updated_at: dt.datetime


class Account(Wire):
    id: uuid.UUID
    name: str
    role: RoleName
    team: str | None = None
    tier: str = "enterprise"
    limits: dict[str, int | None] = Field(default_factory=dict)
    """Its own, which win over its tier's; null is no limit."""
    disabled_at: dt.datetime | None
    created_at: dt.datetime


class AccountRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    role: RoleName = "viewer"
    team: str | None = None
    tier: str = "enterprise"


class ApiKey(Wire):
    id: uuid.UUID
    account: str
    name: str
    prefix: str
    scopes: list[str] = Field(default_factory=list)
    """Some of gateway, read and write; empty: everything that the account may."""

    used_at: dt.datetime | None = None
    """Of late, to a minute or so; None: never."""

    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None


class ApiKeyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    account: str
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)
    scopes: list[Scope] = Field(default_factory=list)
    """What it may be used for; empty: everything that the account may."""


class NewApiKey(ApiKey):
    """Answered once, when the key is made."""

    key: str


class AuditEvent(Wire):
    seq: int
    at: dt.datetime
    actor: str
    action: str
    object: str
    detail: JsonObject
    request_id: str | None
    address: str | None = None
    """Where the request came from, as far as the nearest proxy tells."""
    before: JsonObject | None = None
    """What the object was, where the row tells."""
    after: JsonObject | None = None
    hash: str


class PlannedStep(Wire):
    """A step that a recipe would run."""

    step: str
    kind: str
    depends_on: list[str]
    config: JsonObject


class Plan(Wire):
    """Answer to a dry run: nothing was written."""

    recipe: JsonObject
    steps: list[PlannedStep]


class LogChunk(Wire):
    """A piece of a job's log."""

    text: str
    next: int
    """Give it as `after` to get what follows, bytes."""
    ended: bool
    """The job is over and this was the last of it."""


class Verification(Wire):
    """Every byte of a version is the one that was registered and, where `signed`, signed."""

    verified: bool
    artifacts: list[JsonObject]
    """name, files (their number), signed."""


class SbomOfVersion(Wire):
    """The packages, Python and code that made a version."""

    digest: str
    """sha256 of the document's canonical JSON; the version's signature names it."""
    document: JsonObject
    """CycloneDX 1.6."""


class AuditCheck(Wire):
    """Whether the chain of audit rows is whole."""

    rows: int
    ok: bool
    head: str | None
    """Hash of the newest row; null when there is none."""
    root: str = ""
    """Merkle tree hash (RFC 6962) over the hashes of all rows, hex."""
    vouched: int = 0
    """The first so many rows are those that a signed root was taken of."""


class AuditRoot(Wire):
    """A signed root of the log as it is now: keep it where the service cannot write."""

    envelope: JsonObject
    """DSSE; its payload holds rows, root, head and at."""


class SigningKey(Wire):
    """A key that signs versions and roots of the audit log, or did."""

    id: str
    """sha256, hex, of the public half in DER."""
    algorithm: Literal["ed25519", "ecdsa-p256"]
    state: Literal["signing", "retired", "revoked"]
    """What a retired key signed stays valid; what a revoked one signed does not."""
    created_at: dt.datetime
    public_key: str
    """PEM."""
    reason: str | None
    """Why it was revoked, when and by whom."""


class RotateRequest(Wire):
    """`POST /api/v1/signing/rotate`."""

    model_config = ConfigDict(extra="forbid")

    algorithm: Literal["ed25519", "ecdsa-p256"] = "ed25519"


class RevokeRequest(Wire):
    """`POST /api/v1/signing/keys/{id}/revoke`."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=200)


class AuditLines(Wire):
    """A piece of the log as it is exported."""

    lines: list[str]
