"""Jobs in every state, two versions, a training run that goes on, and ten thousand jobs that are over."""

from __future__ import annotations

import math
import time
import uuid

from sqlalchemy import select, text
from tests.registry.making import ADA, STEPS, World, job_of, make_pipeline, sample, step

from raymill.registry import jobs
from raymill.registry.jobs import ErrorClass
from raymill.registry.tables import Job, JsonObject

# By ids of version 7 (RFC 9562), as all have: they sort by time, and a list is newest first by them.
MANY = text("""
INSERT INTO job (id, step, kind, queue, name, config, state, attempt, epoch, created_at, run_at, started_at, finished_at)
SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - n * 60000), 12, '0') || '7' || substr(md5(n::text), 1, 3)
        || '8' || substr(md5(n::text), 4, 15))::uuid, 'webhook', 'webhook', 'short', 'notify-' || n % 50, '{}', 'succeeded', 1, 1,
       now() - make_interval(mins => n), now() - make_interval(mins => n), now() - make_interval(mins => n),
       now() - make_interval(mins => n, secs => -2)
FROM generate_series(1, 10000) AS n
""")
TOTAL = 400
LOST = "lost-letter"
WHY = "the depot does not answer: connection refused"
_run: list[uuid.UUID] = []
_steps = 0
_arrived = 0


def seed(world: World, _: str) -> dict[str, str]:
    with world.database.transaction() as session:
        session.execute(MANY)
    world.sample = ticket
    for wrong in (range(0, 200, 11), range(0, 200, 40)):  # scores 0.905 and 0.975
        world.make_version("support-triage", right=[number not in wrong for number in range(200)])
    _failed(world)
    run = _running(world)
    with world.database.transaction() as session:
        waits = session.scalars(select(Job.id).where(Job.name == "waiting")).one()
    return {
        "/jobs/:id": f"/jobs/{waits}",
        "/runs/:id": f"/runs/{run}",
        "lost": LOST,
        "why": WHY,
    }


def ticket(number: int, score: float) -> JsonObject:
    """A held-out example, answered right or as another queue's."""
    queue, others = ("delivery", "returns", "billing")[number % 3], ("returns", "billing", "delivery")
    prompt = f"system: Name the queue of a ticket.\n\nuser: Parcel {number} did not come as it should.\n\nassistant: "
    answer = queue if score else others[number % 3]
    return sample(number, score, index=number, prompt=prompt, reference=queue, answer=answer)


def one_step(world: World) -> JsonObject:
    """The run that goes on says its next step. Returns it, and when that was committed (Unix time in ms)."""
    global _steps  # noqa: PLW0603 (one stage, one run)
    _steps += 1
    data = _point(_steps)
    with world.database.transaction() as session:
        jobs.add_events(session, session.get_one(Job, _run[0]), [("step", data)])
    return {**data, "at_ms": time.time() * 1000}


def one_job(world: World) -> JsonObject:
    """A job comes. Returns its name, and when that was committed (Unix time in ms)."""
    global _arrived  # noqa: PLW0603
    _arrived += 1
    name = f"arrival-{_arrived}"
    make_pipeline(world.database, name=name)
    return {"name": name, "at_ms": time.time() * 1000}


def _point(step: int) -> JsonObject:
    loss = 2.4 * math.exp(-step / 90) + 0.35 + 0.03 * math.sin(step * 1.7)
    return {
        "step": step,
        "total": TOTAL,
        "loss": round(loss, 4),
        "lr": 2e-4 * min(1.0, step / 20) * (1 - step / TOTAL),
        "tokens_per_s": 1800 + 40 * math.sin(step),
        "eta_s": (TOTAL - step) * 0.8,
    }


def _running(world: World) -> uuid.UUID:
    """A recipe whose training goes on."""
    global _steps  # noqa: PLW0603
    recipe: JsonObject = {"model": "support-triage", "promote": {"to": "production"}}
    pipeline = make_pipeline(world.database, *STEPS, name="support-triage", recipe=recipe)
    data = world.publish("dataset", "support-triage", {"train.jsonl": b"live", "test.jsonl": b"{}"})
    world.end(
        pipeline,
        "dataset",
        data,
        artifact=data.name,
        train_rows=3,
        test_rows=1,
        format="messages",
        shape="conversation",
    )
    base = world.publish("base", "support-triage", {"model.safetensors": b"live", "config.json": b"{}"})
    world.end(
        pipeline,
        "base",
        base,
        artifact=base.name,
        parameters=1,
        tokens=2,
        steps=4,
        final_loss=0.5,
        tokens_per_s=10.0,
        seconds=2.0,
    )
    train = job_of(world.database, pipeline, "train")
    with world.database.transaction() as session:
        jobs.claim(jobs.raw(session), train.queue, "driver-1", limit=100, lease_s=86_400)
    with world.database.transaction() as session:
        job = session.get_one(Job, train.id)
        _steps = 120
        said = [("step", _point(step)) for step in range(1, _steps + 1)]
        said[60:60] = [("validation", {"step": 60, "loss": 1.7})]
        jobs.add_events(session, job, said)
    _run[:] = [train.id]
    return train.id


def _failed(world: World) -> None:
    """One whose input is wrong, one that is dead, one that was cancelled, and one that waits."""
    ends = {"broken": ("no such file: corpus.txt", ErrorClass.INPUT), LOST: (WHY, ErrorClass.UNEXPECTED)}
    for name in (*ends, "called-off", "waiting"):
        pipeline = make_pipeline(world.database, step("only", tries=1), name=name)
        if name in ends:
            with world.database.transaction() as session:
                (claimed,) = jobs.claim(jobs.raw(session), "short", "w1", limit=1)
                jobs.fail(session, claimed.id, claimed.epoch, *ends[name])
        if name == "called-off":
            with world.database.transaction() as session:
                jobs.cancel_pipeline(session, pipeline.id, ADA)
