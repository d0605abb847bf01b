"""Kinds of job as RAYMILL_KINDS brings them."""

from __future__ import annotations

from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.kinds import Kind


def work(context: JobContext) -> Outcome:
    return Outcome(result={"digest": context.job_id})


KINDS = {
    "greet": Kind(queue="short", work=f"{__name__}:work"),
    "labour": Kind(queue="heavy", work=f"{__name__}:work"),
}
