"""A service whose artifacts lie at a URL: its jobs, promotions and backups, and the sweep of what was never registered."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import select
from tests.registry.making import ADA, World, claim_one, job_of, make_pipeline, step

from raymill.cluster.artifact_copy import Copied, copy_all
from raymill.cluster.artifact_sweep import sweep
from raymill.cluster.attempt import open_attempt
from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.kinds import KINDS, Kind
from raymill.cluster.settings import Settings
from raymill.registry import promotion, samples
from raymill.registry.artifacts import Tampered
from raymill.registry.database import Database
from raymill.registry.object_store import ObjectStore
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import Artifact, Evaluation, JobState
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.spec import DeploySpec

Work = Callable[[JobContext], Outcome]

WORK: dict[str, Work] = {}


def work(context: JobContext) -> Outcome:
    return WORK["note"](context)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    url = f"file://{tmp_path}/store"
    return Settings(home=tmp_path / "home", artifacts_url=url, cache=tmp_path / "cache", lease_s=30.0)


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return cast(ObjectStore, settings.artifacts)


@pytest.fixture
def does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """Says what the kind `note` does."""
    monkeypatch.setitem(KINDS, "note", Kind(queue="short", work=f"{__name__}:work"))
    monkeypatch.setattr(Kind, "load", lambda _: work)
    return lambda function: monkeypatch.setitem(WORK, "note", function)


def run_next(database: Database, settings: Settings) -> JobState | None:
    job = claim_one(database)
    return open_attempt(database, settings, job.id, job.epoch, "w2").run()


def published(context: JobContext) -> Outcome:
    directory = context.work_dir / "draft"
    directory.mkdir()
    (directory / "a.txt").write_text(context.name)
    made = context.publish("model", directory)
    assert (context.path(made.name) / "a.txt").is_file()  # before it has a row
    return Outcome(result={"digest": made.digest, "artifact": made.name}, artifacts=(made,))


def tampered_with(store: ObjectStore, row: Artifact, path: str, content: bytes) -> None:
    fs, tree = store.objects._at(row.name, row.digest)
    fs.pipe_file(f"{tree}/{path}", content)


def test_a_job_reads_on_another_node_what_one_has_published(
    database: Database, settings: Settings, does: Callable[[Work], None], tmp_path: Path
) -> None:
    def read(context: JobContext) -> Outcome:
        (parent,) = context.inputs.values()
        path = context.verified(parent["artifact"])
        assert path.is_relative_to(tmp_path / "other")
        return Outcome(result={"digest": "d", "read": (path / "a.txt").read_text()})

    pipeline = make_pipeline(database, step("a"), step("b", "a"))
    does(published)
    assert run_next(database, settings) is JobState.SUCCEEDED
    does(read)
    assert run_next(database, settings.model_copy(update={"cache": tmp_path / "other"})) is JobState.SUCCEEDED
    assert (job_of(database, pipeline, "b").result or {})["read"] == "triage"


def test_a_version_is_promoted_and_served_by_what_lies_at_the_url(
    database: Database, settings: Settings, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, settings.home)
    first = world.make_version(right=[True] * 20)
    copied = copy_all(database, world.store, store)
    assert copied.artifacts == 5
    assert copy_all(database, world.store, store) == Copied(0, 0, 5)

    def promote(number: int) -> bool:
        made = promotion.promote(
            database, store, world.keys_dir, llm="support-triage", number=number, alias="production", require={}, actor=ADA
        )  # fmt: skip
        return made.allowed

    assert promote(first)
    with database.transaction() as session:
        evaluated = session.scalars(
            select(Evaluation).where(Evaluation.score == 1.0, Evaluation.variant == "")
        ).first()
        assert evaluated is not None
        where = samples.file_of(session, evaluated, "it")
        model = session.scalars(select(Artifact).where(Artifact.name.like("model/%"))).one()
        attestation = promotion.attestation_of(session, model.name)
        assert attestation is not None
    assert len(samples.read(store, where).scores) == 20

    # As a replica does on a node that has nothing of it yet.
    monkeypatch.setenv("RAYMILL_ARTIFACTS_URL", str(settings.artifacts_url))
    monkeypatch.setenv("RAYMILL_CACHE", str(settings.cache))
    spec = DeploySpec(
        name="support-triage",
        version=first,
        artifact=model.name,
        directory=store.place(model.name, model.digest),
        envelope=attestation.envelope,
        public_keys=KeyRing(world.keys_dir).public_keys(),
        config=ServeConfig(engine="vllm"),
    )
    assert not spec.directory.exists()
    spec.verify()
    weights = spec.directory / "model.safetensors"
    weights.write_bytes(b"spoiled")
    spec.verify()
    assert weights.read_bytes().startswith(b"tuned")

    tampered_with(store, model, "model.safetensors", b"others")
    with pytest.raises(Tampered, match=r"model\.safetensors in artifact"):
        promote(first)


def test_the_sweep_deletes_what_was_never_registered_and_is_old(
    database: Database, settings: Settings, store: ObjectStore, does: Callable[[Work], None], tmp_path: Path
) -> None:
    pipeline = make_pipeline(database, step("a"), name="other")
    does(published)
    assert run_next(database, settings) is JobState.SUCCEEDED
    registered = str((job_of(database, pipeline, "a").result or {})["artifact"])
    waiting = make_pipeline(database, step("a"))
    living = f"model/triage/{claim_one(database).address}"
    assert job_of(database, waiting, "a").state is JobState.RUNNING
    names = [registered, living, "model/triage/00000000000a", "model/triage/00000000000b"]
    for name in names[1:]:
        directory = tmp_path / "draft"
        directory.mkdir()
        (directory / "a.txt").write_text("a")
        store.publish(name, directory)
    long_ago = time.time() - 100_000
    for path in (tmp_path / "store").rglob("a.txt"):
        if names[-1] not in str(path):
            os.utime(path, (long_ago, long_ago))
    assert [tree.name for tree in sweep(database, store.objects)] == [names[2]]
    assert {tree.name for tree in store.objects.trees()} == {registered, living, names[-1]}
    assert [tree.name for tree in sweep(database, store.objects, dt.timedelta(0))] == [names[-1]]
