"""A kind of job that does nothing, for `benchmarks/jobs.py`."""

from __future__ import annotations

from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.kinds import Kind


def nothing(_: JobContext) -> Outcome:
    return Outcome(result={})


KINDS = {"bench_noop": Kind(queue="short", work=f"{__name__}:nothing", reusable=False)}
