"""A registry with something in it, made as the service makes it: pipelines, claims, ends with their effects."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select

from raymill.cluster.kinds import KINDS
from raymill.registry import deployments, identity, jobs, promotion
from raymill.registry.artifacts import ArtifactStore, Published
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.jobs import Claimed, StepSpec
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import Job, JobState, JsonObject, Pipeline, Promotion, Role

ADA = Actor(name="ada")
HELDOUT = "heldout_exact_match"
REQUIRE = {HELDOUT: {"at_least": 0.9, "not_below_base": True}}


def step(name: str, *after: str, kind: str = "note", queue: str = "short", tries: int = 3) -> StepSpec:
    """A step that differs from its siblings by its name alone."""
    return StepSpec(
        step=name, kind=kind, queue=queue, config={"of": name}, depends_on=after, max_attempts=tries
    )


def make_pipeline(
    database: Database,
    *steps: StepSpec,
    name: str = "triage",
    key: str | None = None,
    recipe: JsonObject | None = None,
) -> Pipeline:
    """A pipeline of `steps`, or of one short step."""
    with database.transaction() as session:
        return jobs.create_pipeline(
            session,
            name=name,
            recipe=recipe or {"model": name},
            steps=steps or (step("only"),),
            actor=ADA,
            idempotency_key=key,
        )


def claim(
    database: Database, *, limit: int = 1, queue: str = "short", lease_s: float = 30.0
) -> list[Claimed]:
    with database.transaction() as session:
        return jobs.claim(jobs.raw(session), queue, "w1", limit=limit, lease_s=lease_s)


def claim_one(database: Database, *, queue: str = "short", lease_s: float = 30.0) -> Claimed:
    (job,) = claim(database, queue=queue, lease_s=lease_s)
    return job


def succeed(
    database: Database,
    job: Job | Claimed,
    result: JsonObject | None = None,
    artifacts: Sequence[Published] = (),
) -> JobState:
    """End `job` with the effects of its kind."""
    effects = KINDS[job.kind].effects if job.kind in KINDS else None
    with database.transaction() as session:
        return jobs.succeed(
            session,
            job.id,
            job.epoch,
            result=result or {"digest": hashlib.sha256(job.step.encode()).hexdigest()},
            artifacts=artifacts,
            effects=effects,
        )


def read_job(database: Database, job_id: uuid.UUID) -> Job:
    with database.transaction() as session:
        return session.get_one(Job, job_id)


def job_of(database: Database, pipeline: Pipeline, step_name: str) -> Job:
    with database.transaction() as session:
        return session.scalars(select(Job).where(Job.pipeline_id == pipeline.id, Job.step == step_name)).one()


def read_pipeline(database: Database, pipeline: Pipeline) -> Pipeline:
    with database.transaction() as session:
        return session.get_one(Pipeline, pipeline.id)


def sample(number: int, score: float | None, **more: object) -> JsonObject:
    """A line of the samples of an evaluation: the example of that number."""
    return {"doc_hash": f"d{number}", "prompt": f"p{number}", "reference": "r", "score": score, **more}


def answered(number: int, score: float) -> JsonObject:
    """A sample with its answer."""
    return sample(number, score, index=number, answer="r" if score else f"wrong {number}")


def parquet(rows: Sequence[JsonObject]) -> bytes:
    """The bytes of a file of samples."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


@dataclass
class World:
    """A registry, a store with real files and a key ring."""

    database: Database
    home: Path
    made: int = field(default=0)
    sample: Callable[[int, float], JsonObject] = answered
    """What is kept of a held-out example, by its number and score."""

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.home / "artifacts")

    @property
    def keys_dir(self) -> Path:
        return self.home / "keys" / "signing"

    def __post_init__(self) -> None:
        KeyRing(self.keys_dir).create_if_missing()

    def publish(self, kind: str, name: str, files: dict[str, bytes]) -> Published:
        """A new artifact of these files."""
        self.made += 1
        draft = self.home / "draft"
        for path, content in files.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_bytes(content)
        return self.store.publish(f"{kind}/{name}/{self.made:012x}", draft)

    def make_version(
        self,
        name: str = "support-triage",
        score: float = 0.95,
        *,
        right: Sequence[bool] | None = None,
        quantized: Sequence[bool] | None = None,
        first: int = 0,
        base_files: dict[str, bytes] | None = None,
        adapter_files: dict[str, bytes] | None = None,
    ) -> int:
        """Run a whole recipe up to its promotion, with files of a few bytes. Returns the version's number.

        Args:
            right: which held-out examples the model answers, and `quantized` its Q8_0 file; their samples are then
                published. `first` is the number of the first example.
            base_files: of the base that it is tuned from.
            adapter_files: of its adapter; None: all weights were tuned.
        """
        seed = f"{name} {self.made}".encode()
        pipeline = make_pipeline(self.database, *STEPS, name=name, recipe={"promote": {"require": REQUIRE}})
        data = self.publish("dataset", name, {"train.jsonl": seed, "test.jsonl": b"{}"})
        self.end(
            pipeline,
            "dataset",
            data,
            artifact=data.name,
            train_rows=3,
            test_rows=1,
            format="messages",
            shape="conversation",
        )
        base_files = base_files or {"model.safetensors": b"base" + seed, "config.json": b"{}"}
        base = self.publish("base", name, base_files)
        run = {"steps": 4, "final_loss": 0.5, "tokens_per_s": 10.0, "seconds": 2.0}
        self.end(pipeline, "base", base, artifact=base.name, parameters=1, tokens=2, **run)
        measured = {"samples": {HELDOUT: 200}, "seconds": 1.0}
        self.end(pipeline, "evaluate-base", None, metrics={HELDOUT: 0.1}, **measured)
        model = self.publish("model", name, {"model.safetensors": b"tuned" + seed, "config.json": b"{}"})
        adapters = [self.publish("adapter", name, adapter_files)] if adapter_files else []
        adapter = adapters[0].name if adapters else None
        result = self.end(pipeline, "train", model, *adapters, artifact=model.name, adapter=adapter, **run)
        gguf = self.publish("gguf", name, {"model-Q8_0.gguf": b"GGUF" + seed})
        file = {
            "type": "Q8_0",
            "file": "model-Q8_0.gguf",
            "size_bytes": gguf.size_bytes,
            "sha256": gguf.files[0].sha256,
            "tensors": {"Q8_0": 1},
            "fallbacks": [],
            "parity": {"prompts": 2, "same": 2, "agreement": 1.0},
            "verification": {"kl_mean": 0.001},
        }
        published, kept = self._samples(name, {"train": right}, first)
        score = sum(right) / len(right) if right else score
        self.end(pipeline, "evaluate", published, metrics={HELDOUT: score}, **measured, **kept)
        self.end(pipeline, "quantize", gguf, artifact=gguf.name, files=[file])
        published, kept = self._samples(name, {"Q8_0": quantized}, first)
        score = sum(quantized) / len(quantized) if quantized else score
        measures = {"Q8_0": {HELDOUT: score}}
        self.end(pipeline, "evaluate-quantized", published, metrics=measures, **measured, **kept)
        return int(result["version"])

    def _samples(
        self, name: str, right: dict[str, Sequence[bool] | None], first: int
    ) -> tuple[Published | None, dict[str, str]]:
        """A published file of samples, and what the result says of it; neither when nothing is given."""
        rows = [
            {"variant": variant, **self.sample(number, float(each))}
            for variant, answers in right.items()
            for number, each in enumerate(answers or (), start=first)
        ]
        if not rows:
            return None, {}
        published = self.publish("evaluation", name, {f"{HELDOUT}.parquet": parquet(rows)})
        return published, {"artifact": published.name}

    def promote(
        self,
        number: int,
        *,
        name: str = "support-triage",
        to: str = "production",
        require: JsonObject | None = None,
        actor: Actor = ADA,
    ) -> Promotion:
        return promotion.promote(
            self.database,
            self.store,
            self.keys_dir,
            llm=name,
            number=number,
            alias=to,
            require=require or {},
            actor=actor,
        )

    def serve(
        self,
        name: str = "support-triage",
        alias: str = "production",
        config: JsonObject | None = None,
    ) -> None:
        with self.database.transaction() as session:
            deployments.request(session, name, alias, config or {"engine": "vllm"}, ADA)

    def add_key(self, role: Role) -> str:
        """An API key of a new account called like its role."""
        with self.database.transaction() as session:
            identity.create_account(session, role.value, role, ADA)
            return identity.create_key(session, role.value, "test", ADA)[1]

    def end(
        self,
        pipeline: Pipeline,
        step_name: str,
        published: Published | None,
        *others: Published,
        **result: object,
    ) -> JsonObject:
        """End a step of a heavy queue, whatever else waits there."""
        wanted = job_of(self.database, pipeline, step_name)
        with self.database.transaction() as session:
            for claimed in jobs.claim(jobs.raw(session), wanted.queue, "w1", limit=100):
                if claimed.id != wanted.id:  # its turn comes later
                    job = session.get_one(Job, claimed.id, populate_existing=True)
                    job.state, job.lease_until, job.slot = JobState.QUEUED, None, None
        digest = published.digest if published else hashlib.sha256(wanted.id.bytes).hexdigest()
        done: JsonObject = {"digest": digest, **result}
        job = read_job(self.database, wanted.id)
        succeed(self.database, job, done, (published, *others) if published else ())
        return done


def _kind_step(name: str, kind: str, *after: str, **config: object) -> StepSpec:
    return StepSpec(step=name, kind=kind, queue=KINDS[kind].queue, config=config, depends_on=after)


STEPS = (
    _kind_step("dataset", "dataset"),
    _kind_step("base", "pretrain"),
    _kind_step("evaluate-base", "evaluate", "dataset", "base", of="base"),
    _kind_step("train", "train", "dataset", "base"),
    _kind_step("evaluate", "evaluate", "dataset", "train", of="train"),
    _kind_step("quantize", "quantize", "dataset", "train"),
    _kind_step("evaluate-quantized", "evaluate", "dataset", "train", "quantize", of="quantize"),
)
