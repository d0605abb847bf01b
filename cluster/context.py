"""What a job handler is given, and what it gives back.

A handler is a plain function `run(context) -> Outcome`, named in `cluster/kinds.py`. It knows nothing
of leases, epochs or retries; those are the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raymill.policies.errors import RaymillError

if TYPE_CHECKING:
    from raymill.registry.artifacts import Published
    from raymill.registry.database import Database

JsonObject = dict[str, Any]


class Cancelled(RaymillError):
    """Someone asked for the end of this job."""

    code = "cancelled"


class Paused(RaymillError):
    """Someone asked for a rest of this job: stop; the next attempt goes on from the last checkpoint."""

    code = "paused"


class Preempted(RaymillError):
    """The machine or the service goes: stop; the job waits in its queue again, and that counts as nothing."""

    code = "preempted"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished job leaves behind. It commits in one transaction together with the registry rows that
    `cluster/kinds.py` makes of the result (a version, a score), or none of it does."""

    result: JsonObject
    """JSON. Holds `digest` (sha256, hex): what a later step's address is made of."""

    artifacts: tuple[Published, ...] = ()
    """Directories that `context.publish` put in the store; their rows are written with the job's end."""


class JobContext(Protocol):
    """One attempt at one job."""

    @property
    def job_id(self) -> str: ...

    @property
    def epoch(self) -> int:
        """Counts the attempts; rows that a handler writes as it goes are written under it."""
        ...

    @property
    def name(self) -> str:
        """Name of the model or data set that the pipeline is about, such as `support-triage`."""
        ...

    @property
    def address(self) -> str:
        """First 12 hex digits of sha256 over kind, resolved config and the digests of the inputs."""
        ...

    @property
    def config(self) -> JsonObject:
        """The resolved configuration of this step."""
        ...

    @property
    def inputs(self) -> dict[str, JsonObject]:
        """Step name -> `result` of each step this one depends on."""
        ...

    @property
    def work_dir(self) -> Path:
        """Scratch directory. The next attempt at the same job finds it as it was: checkpoints go here."""
        ...

    @property
    def database(self) -> Database:
        """For the few kinds that govern rather than compute; the others leave rows to their result."""
        ...

    def path(self, artifact: str) -> Path:
        """Local directory of a published artifact, such as `model/support-triage/0a1b2c3d4e5f`."""
        ...

    def verified(self, artifact: str) -> Path:
        """As `path`, once every byte there is the one that was registered.

        Raises:
            Tampered: a file differs, is missing, or was added; the message says which.
        """
        ...

    def publish(self, kind: str, directory: Path) -> Published:
        """Move `directory` to `<kind>/<name>/<address>` in the store, atomically, and digest its files."""
        ...

    def event(self, kind: str, **data: Any) -> None:
        """Record progress: `step`, `log`, `phase`... Buffered; never raises, never waits for the database."""
        ...

    def check(self) -> None:
        """Raise `Cancelled`, `Paused`, `Preempted` or `LeaseLost` when the work must stop. Call it in loops."""
        ...


@dataclass
class LocalContext:
    """A `JobContext` without an engine: for tests of handlers, and for trying one by hand."""

    root: Path
    job_id: str = "local"
    epoch: int = 1
    name: str = "local"
    address: str = "000000000000"
    config: JsonObject = field(default_factory=dict)
    inputs: dict[str, JsonObject] = field(default_factory=dict)
    events: list[tuple[str, JsonObject]] = field(default_factory=list)

    @property
    def work_dir(self) -> Path:
        path = self.root / "work" / self.job_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def database(self) -> Database:
        raise LookupError("a LocalContext has no database")

    def path(self, artifact: str) -> Path:
        return self.root / "artifacts" / artifact

    def verified(self, artifact: str) -> Path:
        """Nothing is registered here that it could be held against."""
        return self.path(artifact)

    def publish(self, kind: str, directory: Path) -> Published:
        from raymill.registry.artifacts import ArtifactStore

        return ArtifactStore(self.root / "artifacts").publish(f"{kind}/{self.name}/{self.address}", directory)

    def event(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def check(self) -> None:
        return
