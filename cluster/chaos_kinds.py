"""Work for `cluster/chaos.py`: jobs that take a moment, say how far they are, and leave one countable effect.

Loaded where RAYMILL_KINDS names this module. The effect is an audit row: written once or twice shows in the log.
"""

from __future__ import annotations

import time

from sqlalchemy.orm import Session

from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.kinds import Kind
from raymill.registry import audit
from raymill.registry.audit import SYSTEM
from raymill.registry.tables import Job, JsonObject

EFFECT = "chaos.effect"


def work(context: JobContext) -> Outcome:
    """Sleep `config["seconds"]` in steps; the first attempt of one job in ten meets a network that is away."""
    steps = 5
    for step in range(steps):
        context.check()
        context.event("step", step=step)
        time.sleep(context.config["seconds"] / steps)
    met = context.work_dir / "met"
    if context.config["number"] % 10 == 3 and not met.exists():
        met.touch()
        raise ConnectionError("the network was away for a moment")
    return Outcome(result={"digest": context.job_id})


def effect(session: Session, job: Job, _: JsonObject) -> None:
    audit.record(session, SYSTEM, EFFECT, f"job/{job.id}", epoch=job.epoch)


KINDS = {
    "chaos": Kind(queue="short", work=f"{__name__}:work", effects=effect, reusable=False),
    "chaos_heavy": Kind(queue="heavy", work=f"{__name__}:work", effects=effect, reusable=False),
}
