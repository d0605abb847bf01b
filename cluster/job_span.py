"""An attempt at a job as a span, below the request that asked for the job."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from raymill.cluster import logs
from raymill.cluster.tracing import OpenSpan, tracer
from raymill.registry import trace_context
from raymill.registry.database import Database
from raymill.registry.jobs import Claimed
from raymill.registry.tables import JobState

BAD = {JobState.FAILED, JobState.DEAD}


class JobSpan:
    """What is done in the block belongs to the job's trace, for logs too. Costs nothing where nobody wants to know."""

    def __init__(self, database: Database, job: Claimed) -> None:
        self._database = database
        self._job = job
        self._span: OpenSpan | None = None
        self.state: JobState | None = None
        """In which the attempt left the job; None: it was somebody else's by then."""

    def __enter__(self) -> Self:
        spans, job = tracer("job"), self._job
        if spans is None and not logs.as_json():
            return self
        parent = self._database.patiently(
            lambda session: trace_context.kept(session, job.id, job.pipeline_id)
        )
        trace_context.carry(parent)
        if spans is not None:
            self._span = spans.begin(
                f"job {job.kind}",
                "consumer",
                parent,
                job_id=str(job.id),
                step=job.step,
                queue=job.queue,
                attempt=job.attempt,
                epoch=job.epoch,
            )
            trace_context.carry(self._span.traceparent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        trace_context.carry(None)
        if self._span is not None:
            state = self.state.value if self.state is not None else "lost"
            failed = self.state is None or self.state in BAD
            self._span.end(error=state if failed else None, state=state)
