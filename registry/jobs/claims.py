"""Taking jobs and keeping them: claims, heartbeats, and the plain good end; each one statement.

These are what a busy engine does thousands of times a second, so they speak psycopg and not SQLAlchemy,
on a connection in autocommit (`Database.hold`) or in a session's transaction (`raw`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
import uuid
from collections.abc import Sequence

import psycopg
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry.failpoints import failpoint
from raymill.registry.jobs.model import LEASE_S, Beat, Claimed, Done, JobSpec, Priority

Connection = psycopg.Connection[tuple[object, ...]]

EPOCH_START = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

COLUMNS = ", ".join(Claimed._fields)

# Most urgent first; skips what another worker is just taking. `floor` is where the last claim of this worker
# left off in each priority (see Floors). A job with a concurrency key gets a free slot of it; the unique index
# on key and slot is what makes the limit exact.
_CLAIM = f"""
WITH ready AS MATERIALIZED (
    SELECT job.id, job.concurrency_key, job.concurrency_limit, job.priority, job.run_at
    FROM unnest(%(priorities)s::int[], %(floors)s::timestamptz[]) AS floor(priority, run_at)
    CROSS JOIN LATERAL (
        SELECT id, concurrency_key, concurrency_limit, priority, run_at FROM job
        WHERE state = 'queued' AND waiting_on = 0 AND queue = %(queue)s AND priority = floor.priority
          AND run_at >= floor.run_at AND run_at <= statement_timestamp()
          AND (concurrency_key IS NULL OR concurrency_limit > (
              SELECT count(*) FROM job AS busy
              WHERE busy.state = 'running' AND busy.concurrency_key = job.concurrency_key))
        ORDER BY run_at, id
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED) AS job
    WHERE {{open}}
    LIMIT %(limit)s),
placed AS (
    SELECT *, row_number() OVER (PARTITION BY concurrency_key ORDER BY priority DESC, run_at, id) AS place
    FROM ready),
free AS (
    SELECT key, slot, row_number() OVER (PARTITION BY key ORDER BY slot) AS place
    FROM (SELECT concurrency_key AS key, max(concurrency_limit) AS most FROM ready
          WHERE concurrency_key IS NOT NULL GROUP BY 1) AS keys
    CROSS JOIN LATERAL generate_series(0, most - 1) AS slot
    WHERE NOT EXISTS (SELECT FROM job AS busy WHERE busy.state = 'running'
                      AND busy.concurrency_key = keys.key AND busy.slot = slot)),
claimed AS (
    UPDATE job
    SET state = 'running', epoch = epoch + 1, attempt = attempt + 1, worker = %(worker)s, slot = free.slot,
        lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
        started_at = coalesce(started_at, clock_timestamp())
    FROM placed LEFT JOIN free ON free.key = placed.concurrency_key AND free.place = placed.place
    WHERE job.id = placed.id AND (placed.concurrency_key IS NULL OR free.slot IS NOT NULL)
    RETURNING {", ".join(f"job.{column}" for column in Claimed._fields)}),
streams AS MATERIALIZED (  -- in one order, so that two workers never wait for each other
    SELECT pipeline_id, pg_advisory_xact_lock(hashtextextended(pipeline_id::text, 1)),
           pg_notify('raymill_event', pipeline_id::text)
    FROM (SELECT DISTINCT pipeline_id FROM claimed WHERE pipeline_id IS NOT NULL ORDER BY 1) AS pipelines),
told AS (
    INSERT INTO job_event (pipeline_id, job_id, kind, data)
    SELECT pipeline_id, id, 'state',
           jsonb_build_object('state', 'running', 'attempt', attempt, 'step', step)
    FROM streams JOIN claimed USING (pipeline_id))
SELECT {COLUMNS} FROM claimed ORDER BY priority DESC, run_at, id
"""

_OPEN = "(SELECT max_running IS NULL AND paused_at IS NULL FROM queue WHERE name = %(queue)s)"
CLAIM = _CLAIM.format(open=_OPEN)
CLAIM_LIMITED = _CLAIM.format(open="true")

# Whoever claims from a queue with a limit does so alone; counting in a later statement sees what the last one took.
LIMITED = """
SELECT paused_at IS NOT NULL, max_running FROM queue
WHERE name = %s AND (max_running IS NOT NULL OR paused_at IS NOT NULL) FOR NO KEY UPDATE
"""
RUNNING = "SELECT count(*) FROM job WHERE state = 'running' AND queue = %s"

# What this worker was given by a claim whose answer never came.
UNHEARD = f"""
SELECT {COLUMNS} FROM job
WHERE state = 'running' AND worker = %s AND lease_until > clock_timestamp() AND NOT id = ANY(%s)
"""

# Skips a row that someone is just changing: the next beat is soon. What is owned is read without a lock.
BEAT = """
WITH mine AS (
    SELECT id, epoch, cancel_requested_at IS NOT NULL AS cancel, pause_requested_at IS NOT NULL AS pause
    FROM job JOIN unnest(%(ids)s::uuid[], %(epochs)s::int[]) AS beat(id, epoch) USING (id, epoch)
    WHERE state = 'running'),
free AS (
    SELECT job.id FROM job JOIN mine USING (id, epoch) WHERE state = 'running'
    FOR NO KEY UPDATE OF job SKIP LOCKED),
beaten AS (
    UPDATE job SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
    FROM free WHERE job.id = free.id)
SELECT id, cancel, pause FROM mine
"""

DONE = """
UPDATE job
SET state = 'succeeded', lease_until = NULL, slot = NULL, error = NULL, result = done.result::jsonb,
    finished_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(epochs)s::int[], %(results)s::text[]) AS done(id, epoch, result)
WHERE job.id = done.id AND job.epoch = done.epoch AND state = 'running'
  AND cancel_requested_at IS NULL AND pipeline_id IS NULL
RETURNING job.id
"""

ENQUEUE = """
WITH known AS (SELECT name FROM queue),
made AS (
    INSERT INTO job (id, step, kind, queue, name, config, priority, run_at, max_attempts,
                     concurrency_key, concurrency_limit, unique_key, idempotency_key, request_hash)
    SELECT spec.id, kind, kind, queue, spec.name, config::jsonb, priority, coalesce(run_at, statement_timestamp()),
           max_attempts, concurrency_key, concurrency_limit, unique_key, idempotency_key, request_hash
    FROM unnest(%(id)s::uuid[], %(kind)s::text[], %(queue)s::text[], %(name)s::text[], %(config)s::text[],
                %(priority)s::int[], %(run_at)s::timestamptz[], %(max_attempts)s::int[],
                %(concurrency_key)s::text[], %(concurrency_limit)s::int[], %(unique_key)s::text[],
                %(idempotency_key)s::text[], %(request_hash)s::text[])
      AS spec(id, kind, queue, name, config, priority, run_at, max_attempts, concurrency_key,
              concurrency_limit, unique_key, idempotency_key, request_hash)
      JOIN known ON known.name = spec.queue
    ON CONFLICT DO NOTHING
    RETURNING id, queue),
woken AS MATERIALIZED (SELECT pg_notify('raymill_job', queue) FROM (SELECT DISTINCT queue FROM made) AS queues)
SELECT id, (SELECT count(*) FROM woken) FROM made
"""

# What stands in the way of a job that was not made.
KNOWN = """
SELECT id, idempotency_key, request_hash FROM job
WHERE id = %(id)s OR idempotency_key = %(idempotency_key)s
   OR (unique_key = %(unique_key)s AND state IN ('queued', 'running', 'paused'))
ORDER BY idempotency_key IS NOT DISTINCT FROM %(idempotency_key)s DESC LIMIT 1
"""


class Floors:
    """Where a worker's last claim left off, in each priority, so that the next one does not walk over what it took.

    An index keeps the entries of claimed jobs until nobody's snapshot may need them: with a transaction held
    open for a minute, a claim that began at the first entry would pass all that was claimed in that minute.
    Whatever is due below a floor (a retry never is, for its time is later; a submission that committed late is)
    is found by the next claim from the start, which comes at once when a claim from the floor finds too little,
    and else so that all of them together take a small share of the time.
    """

    OVERLAP = dt.timedelta(milliseconds=50)
    SHARE = 40
    """A claim from the start that took a second is made again after so many."""

    def __init__(self) -> None:
        self._floors: dict[int, dt.datetime] = {}
        self._restart_at = 0.0

    def of(self, priorities: Sequence[int]) -> tuple[list[dt.datetime], bool]:
        """The floors of `priorities`, and whether they are the start of all."""
        if time.monotonic() >= self._restart_at:
            self._floors.clear()
        return [self._floors.get(priority, EPOCH_START) for priority in priorities], not self._floors

    def took(self, claimed: Sequence[Claimed], limit: int, *, from_start: bool, seconds: float) -> None:
        if len(claimed) < limit:
            self._floors.clear()
            return
        for job in claimed:
            self._floors[job.priority] = job.run_at - self.OVERLAP
        if from_start:
            self._restart_at = time.monotonic() + max(1.0, seconds * self.SHARE)


PRIORITIES = sorted(Priority, reverse=True)


def raw(session: Session) -> Connection:
    """The session's own connection, in its transaction, with all that it holds written."""
    session.flush()
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


def enqueue(connection: Connection, specs: Sequence[JobSpec]) -> list[uuid.UUID]:
    """Write jobs that stand alone, in one statement.

    Returns:
        Their ids in order; where an idempotency or unique key names a job that is there already, that one's.

    Raises:
        Conflict: an idempotency key was used for something else.
        NotFound: no such queue.
        Invalid: a priority that there is not.
    """
    for spec in specs:
        if spec.priority not in PRIORITIES:
            raise Invalid(
                f"priority {spec.priority} is unknown: it is 0 (low), 1 (normal), 2 (high) or 3 (urgent)"
            )
    columns = {
        "id": [spec.id for spec in specs],
        "kind": [spec.kind for spec in specs],
        "queue": [spec.queue for spec in specs],
        "name": [spec.name or spec.kind for spec in specs],
        "config": [json.dumps(spec.config) for spec in specs],
        "priority": [int(spec.priority) for spec in specs],
        "run_at": [spec.run_at for spec in specs],
        "max_attempts": [spec.max_attempts for spec in specs],
        "concurrency_key": [spec.concurrency_key for spec in specs],
        "concurrency_limit": [spec.concurrency_limit for spec in specs],
        "unique_key": [spec.unique_key for spec in specs],
        "idempotency_key": [spec.idempotency_key for spec in specs],
        "request_hash": [spec.request_hash() if spec.idempotency_key else None for spec in specs],
    }
    failpoint("enqueue:before")
    made = {row[0] for row in connection.execute(ENQUEUE, columns)}
    failpoint("enqueue:written")
    return [spec.id if spec.id in made else _known(connection, spec) for spec in specs]


def _known(connection: Connection, spec: JobSpec) -> uuid.UUID:
    asked = {"id": spec.id, "idempotency_key": spec.idempotency_key, "unique_key": spec.unique_key}
    for _ in range(5):
        row = connection.execute(KNOWN, asked).fetchone()
        if row is not None:
            break
        queue = connection.execute("SELECT 1 FROM queue WHERE name = %s", (spec.queue,)).fetchone()
        if queue is None:
            raise NotFound(f"no queue {spec.queue!r}: `raymill queue list` shows the ones there are")
        # The job of the unique key has ended since: there is room for this one now.
        if enqueue(connection, [spec]) == [spec.id]:
            return spec.id
    else:
        raise Conflict(f"jobs with unique key {spec.unique_key!r} come and go too fast: try again")
    known_id, known_key, known_hash = row
    same_key = spec.idempotency_key is not None and known_key == spec.idempotency_key
    if same_key and known_hash != spec.request_hash():
        raise Conflict(
            f"Idempotency-Key {spec.idempotency_key!r} was used with another request: use a new key"
        )
    assert isinstance(known_id, uuid.UUID)
    return known_id


def claim(
    connection: Connection,
    queue: str,
    worker: str,
    *,
    limit: int = 1,
    lease_s: float = LEASE_S,
    floors: Floors | None = None,
) -> list[Claimed]:
    """Take up to `limit` ready jobs of a queue for `worker`, for `lease_s` seconds.

    Args:
        floors: of this worker and queue; None looks at all that is ready.
    """
    started = time.monotonic()
    starts, from_start = (
        floors.of(PRIORITIES) if floors is not None else ([EPOCH_START] * len(PRIORITIES), True)
    )
    parameters = {
        "queue": queue,
        "limit": limit,
        "worker": worker,
        "lease_s": lease_s,
        "priorities": [int(priority) for priority in PRIORITIES],
        "floors": starts,
    }
    try:
        with _nested(connection):
            claimed = [Claimed._make(row) for row in connection.execute(CLAIM, parameters)]
        if not claimed:
            with connection.transaction():
                claimed = _claim_limited(connection, parameters)
    except psycopg.errors.UniqueViolation:
        return []  # another worker has just taken the key's last slot: it is seen next time
    if floors is not None:
        floors.took(claimed, limit, from_start=from_start, seconds=time.monotonic() - started)
    return claimed


def _nested(connection: Connection) -> contextlib.AbstractContextManager[object]:
    """A savepoint where there is a transaction to be kept whole; a lone statement needs none."""
    return contextlib.nullcontext() if connection.autocommit else connection.transaction()


def _claim_limited(connection: Connection, parameters: dict[str, object]) -> list[Claimed]:
    found = connection.execute(LIMITED, (parameters["queue"],)).fetchone()
    if found is None or found[0]:
        return []
    row = connection.execute(RUNNING, (parameters["queue"],)).fetchone()
    assert row is not None
    room = int(str(found[1])) - int(str(row[0]))
    if room < 1:
        return []
    limited = {**parameters, "limit": min(room, int(str(parameters["limit"])))}
    return [Claimed._make(row) for row in connection.execute(CLAIM_LIMITED, limited)]


def queues(connection: Connection, runner: str) -> list[str]:
    """Names of the queues whose jobs such a runner takes."""
    found = connection.execute("SELECT name FROM queue WHERE runner = %s ORDER BY name", (runner,))
    return [str(row[0]) for row in found]


def unheard(connection: Connection, worker: str, known: Sequence[uuid.UUID]) -> list[Claimed]:
    """Jobs that `worker` holds without knowing: the answer to its claim was lost."""
    return [Claimed._make(row) for row in connection.execute(UNHEARD, (worker, list(known)))]


def beat(
    connection: Connection, jobs: Sequence[tuple[uuid.UUID, int]], *, lease_s: float = LEASE_S
) -> list[Beat]:
    """Say that the worker of these (id, epoch) lives. Answers in their order."""
    parameters = {
        "ids": [job_id for job_id, _ in jobs],
        "epochs": [epoch for _, epoch in jobs],
        "lease_s": lease_s,
    }
    owned = {row[0]: Beat(True, bool(row[1]), bool(row[2])) for row in connection.execute(BEAT, parameters)}
    return [owned.get(job_id, Beat(False)) for job_id, _ in jobs]


def complete(connection: Connection, done: Sequence[Done]) -> set[uuid.UUID]:
    """End jobs well that stand alone and have no effects.

    Returns:
        Those that ended; the others need `succeed`, which says why not.
    """
    parameters = {
        "ids": [each.id for each in done],
        "epochs": [each.epoch for each in done],
        "results": [json.dumps(each.result) for each in done],
    }
    return {row[0] for row in connection.execute(DONE, parameters)}  # type: ignore[misc]
