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
from typing import cast

import psycopg
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import trace_context
from raymill.registry.failpoints import failpoint
from raymill.registry.jobs import bounds
from raymill.registry.jobs.model import LEASE_S, Beat, Claimed, Done, JobSpec, Priority

Connection = psycopg.Connection[tuple[object, ...]]

PRIORITIES = sorted(Priority, reverse=True)
START = "-infinity"
NO_FLOORS = ",".join([START] * len(PRIORITIES))

COLUMNS = ", ".join(Claimed._fields)

# Most urgent first; skips what another worker is just taking. `floor` is where the last claim of this worker
# left off in each priority (see Floors).
_READY = """
{name} AS MATERIALIZED (
    SELECT job.*
    FROM unnest('{{{priorities}}}'::int[], string_to_array(%(floors)s, ',')::timestamptz[]) AS floor(priority, run_at)
    CROSS JOIN LATERAL (
        SELECT id, ctid AS at, concurrency_key, concurrency_limit, priority, run_at{also} FROM job
        WHERE state = 'queued' AND waiting_on = 0 AND queue = %(queue)s AND priority = floor.priority
          AND run_at >= floor.run_at AND run_at <= statement_timestamp()
          AND (concurrency_key IS NULL OR concurrency_limit > (
              SELECT count(*) FROM job AS busy
              WHERE busy.state = 'running' AND busy.concurrency_key = job.concurrency_key)){fits}
        ORDER BY run_at, id
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED) AS job
    WHERE {open}
    LIMIT %(limit)s),
"""

# A job with a concurrency key gets a free slot of it; the unique index on key and slot is what makes the limit
# exact. When two of a key are ready, both would get the same slot here, and `_PLACED` gives each its own.
_TAKEN = """
taken AS (
    SELECT at, slot FROM (
        SELECT at, concurrency_key, CASE WHEN concurrency_key IS NOT NULL THEN (
            SELECT min(free.n) FROM generate_series(0, concurrency_limit - 1) AS free(n)
            WHERE NOT EXISTS (SELECT FROM job AS busy WHERE busy.state = 'running'
                              AND busy.concurrency_key = ready.concurrency_key AND busy.slot = free.n)) END AS slot
        FROM ready) AS slotted
    WHERE concurrency_key IS NULL OR slot IS NOT NULL),
"""

_PLACED = """
placed AS (
    SELECT *, row_number() OVER (PARTITION BY concurrency_key ORDER BY priority DESC, run_at, id) AS place
    FROM ready),
free AS (
    SELECT key, n AS slot, row_number() OVER (PARTITION BY key ORDER BY n) AS place
    FROM (SELECT concurrency_key AS key, max(concurrency_limit) AS most FROM ready
          WHERE concurrency_key IS NOT NULL GROUP BY 1) AS keys
    CROSS JOIN LATERAL generate_series(0, most - 1) AS free(n)
    WHERE NOT EXISTS (SELECT FROM job AS busy WHERE busy.state = 'running'
                      AND busy.concurrency_key = keys.key AND busy.slot = free.n)),
taken AS (
    SELECT at, free.slot FROM placed
    LEFT JOIN free ON free.key = placed.concurrency_key AND free.place = placed.place
    WHERE placed.concurrency_key IS NULL OR free.slot IS NOT NULL),
"""

_TOLD = f"""
claimed AS (
    UPDATE job
    SET state = 'running', epoch = epoch + 1, attempt = attempt + 1, worker = %(worker)s, slot = taken.slot,
        lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
        started_at = coalesce(started_at, clock_timestamp())
    FROM taken WHERE job.ctid = taken.at
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
"""

_OPEN = f"(SELECT max_running IS NULL AND paused_at IS NULL AND NOT {bounds.BOUND} FROM queue WHERE name = %(queue)s)"
_ORDER = ",".join(str(int(priority)) for priority in PRIORITIES)
_ANSWER = f"SELECT {COLUMNS} FROM claimed"
_READY_NOW = _READY.format(name="ready", also="", fits="", open=_OPEN, priorities=_ORDER)
_CANDIDATE = _READY.format(
    name="candidate", also=bounds.COLUMNS, fits=bounds.FITS, open="true", priorities=_ORDER
)
CLAIM = "WITH" + _READY_NOW + _TAKEN + _TOLD + _ANSWER
CLAIM_PLACED = "WITH" + _READY_NOW + _PLACED + _TOLD + _ANSWER
CLAIM_LIMITED = "WITH" + bounds.LEFT + _CANDIDATE + bounds.TOGETHER + _PLACED + _TOLD + _ANSWER

# Whoever claims from a queue with a limit or with bound jobs (see `bounds`) does so alone; counting in a later statement
# sees what the last one took.
LIMITED = f"""
SELECT paused_at IS NOT NULL, max_running, bound
FROM queue CROSS JOIN LATERAL (SELECT {bounds.BOUND} AS bound) AS look
WHERE name = %(queue)s AND (max_running IS NOT NULL OR paused_at IS NOT NULL OR bound) FOR NO KEY UPDATE OF queue
"""
RUNNING = "SELECT count(*) FROM job WHERE state = 'running' AND queue = %s"

# What this worker was given by a claim whose answer never came.
UNHEARD = f"""
SELECT {COLUMNS} FROM job
WHERE state = 'running' AND worker = %s AND lease_until > clock_timestamp() AND NOT id = ANY(%s)
"""

# Skips a row that someone is just changing: the next beat is soon. What is owned is read without a lock.
# `lease_until IS NOT NULL` says `state = 'running'` (a constraint of the table) without offering the planner the
# index of running jobs, which holds all that have run while an old snapshot may need them.
BEAT = """
WITH mine AS (
    SELECT id, epoch, cancel_requested_at IS NOT NULL AS cancel, pause_requested_at IS NOT NULL AS pause
    FROM job JOIN unnest(%(ids)s::uuid[], %(epochs)s::int[]) AS beat(id, epoch) USING (id, epoch)
    WHERE lease_until IS NOT NULL),
free AS (
    SELECT job.id FROM job JOIN mine USING (id, epoch) WHERE lease_until IS NOT NULL
    FOR NO KEY UPDATE OF job SKIP LOCKED),
beaten AS (
    UPDATE job SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
    FROM free WHERE job.id = free.id)
SELECT id, cancel, pause FROM mine
"""

# Lists travel as one text each: a list of Python objects costs more to send than the statement does.
DONE = """
UPDATE job
SET state = 'succeeded', lease_until = NULL, slot = NULL, error = NULL, result = mine.result,
    finished_at = clock_timestamp()
FROM (
    SELECT found.at, done.result
    FROM ROWS FROM (unnest(string_to_array(%(ids)s, ',')::uuid[]), unnest(string_to_array(%(epochs)s, ',')::int[]),
                    jsonb_array_elements(%(results)s::jsonb)) AS done(id, epoch, result)
    CROSS JOIN LATERAL (  -- OFFSET 0: looked up by its id, one by one, whatever the planner thinks of the table
        SELECT ctid AS at FROM job
        WHERE job.id = done.id AND job.epoch = done.epoch AND lease_until IS NOT NULL
          AND cancel_requested_at IS NULL AND pipeline_id IS NULL
        OFFSET 0) AS found) AS mine
WHERE job.ctid = mine.at
RETURNING job.id
"""

# Both at once: what a busy worker does between two jobs costs one journey and one commit. The claim does not see the
# ends yet, so a slot of a concurrency key that they free is for the claim after this one.
COMPLETE_AND_CLAIM = f"""
WITH ended AS ({DONE}),
{_READY_NOW}{_TAKEN}{_TOLD}
SELECT {COLUMNS}, NULL::uuid[] AS ended FROM claimed
UNION ALL SELECT {", ".join(["NULL"] * len(Claimed._fields))}, array_agg(id) FROM ended
"""

# Jobs that differ in id, config and keys alone.
_ENQUEUE = """
WITH made AS (
    INSERT INTO job (id, step, kind, queue, name, config, priority, run_at, max_attempts,
                     concurrency_key, concurrency_limit, team_id, gpus, cpus, accelerator{keys})
    SELECT spec.id, %(kind)s, %(kind)s, queue.name, %(name)s, spec.config, %(priority)s,
           coalesce(%(run_at)s::timestamptz, statement_timestamp()), %(max_attempts)s,
           %(concurrency_key)s, %(concurrency_limit)s, %(team_id)s, %(gpus)s, %(cpus)s, %(accelerator)s{keys}
    FROM queue
    CROSS JOIN ROWS FROM (unnest(string_to_array(%(ids)s, ',')::uuid[]), jsonb_array_elements(%(configs)s::jsonb)
                          {lists}) AS spec(id, config{keys})
    WHERE queue.name = %(queue)s
    ON CONFLICT DO NOTHING
    RETURNING 1)
SELECT count(*), pg_notify('raymill_job', %(queue)s) FROM made
"""
ENQUEUE = _ENQUEUE.format(keys="", lists="")
ENQUEUE_KEYED = _ENQUEUE.format(
    keys=", unique_key, idempotency_key, request_hash",
    lists=", unnest(%(unique_key)s::text[]), unnest(%(idempotency_key)s::text[]), unnest(%(request_hash)s::text[])",
)

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
        self._floors: dict[int, str] = {}
        self._restart_at = 0.0

    def text(self) -> str:
        """Of each priority, the most urgent first; `NO_FLOORS` when it is time for a claim from the start."""
        if time.monotonic() >= self._restart_at:
            self._floors.clear()
        if not self._floors:
            return NO_FLOORS
        return ",".join([self._floors.get(priority, START) for priority in PRIORITIES])

    def took(self, claimed: Sequence[Claimed], limit: int, *, from_start: bool, seconds: float) -> None:
        if len(claimed) < limit:
            self._floors.clear()
            return
        last: dict[int, dt.datetime] = {}
        for job in claimed:
            last[job.priority] = job.run_at
        for priority, run_at in last.items():
            self._floors[priority] = (run_at - self.OVERLAP).isoformat()
        if from_start:
            self._restart_at = time.monotonic() + max(1.0, seconds * self.SHARE)


COMPLETE_TRIES = 3
"""A row that changed just then (by a heartbeat) is left out by the statement, and there for the next one."""


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
    groups: dict[object, list[JobSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.group(), []).append(spec)
    failpoint("enqueue:before")
    if len(groups) == 1:
        made = _enqueue_alike(connection, specs)
    else:
        with connection.transaction():
            alike = [_enqueue_alike(connection, group) for group in groups.values()]
            made = all(alike)
    failpoint("enqueue:written")
    if made:
        trace_context.keep(connection, [spec.id for spec in specs])
        return [spec.id for spec in specs]
    there = connection.execute("SELECT id FROM job WHERE id = ANY(%s)", ([spec.id for spec in specs],))
    known = {row[0] for row in there}
    trace_context.keep(connection, [spec.id for spec in specs if spec.id in known])
    return [spec.id if spec.id in known else _known(connection, spec) for spec in specs]


def _enqueue_alike(connection: Connection, specs: Sequence[JobSpec]) -> bool:
    """Whether all were made."""
    first = specs[0]
    parameters: dict[str, object] = {
        "ids": ",".join([spec.id.hex for spec in specs]),
        "configs": json.dumps([spec.config for spec in specs]),
        "kind": first.kind,
        "name": first.name or first.kind,
        "queue": first.queue,
        "priority": int(first.priority),
        "run_at": first.run_at,
        "max_attempts": first.max_attempts,
        "concurrency_key": first.concurrency_key,
        "concurrency_limit": first.concurrency_limit,
        "team_id": first.team_id,
        "gpus": first.needs.gpus,
        "cpus": first.needs.cpus,
        "accelerator": first.needs.accelerator,
    }
    statement = ENQUEUE
    if any(spec.unique_key or spec.idempotency_key for spec in specs):
        statement = ENQUEUE_KEYED
        parameters |= {
            "unique_key": [spec.unique_key for spec in specs],
            "idempotency_key": [spec.idempotency_key for spec in specs],
            "request_hash": [spec.request_hash() if spec.idempotency_key else None for spec in specs],
        }
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0] == len(specs)


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
    begin = floors.text() if floors is not None else NO_FLOORS
    parameters = _claim_parameters(queue, worker, limit, lease_s, begin)
    claimed = _claimed(connection, CLAIM, parameters)
    if claimed is None:
        claimed = _claimed(connection, CLAIM_PLACED, parameters)
    if claimed is None:
        return []  # another worker has just taken the key's last slot: it is seen next time
    if not claimed:
        with connection.transaction():
            claimed = _claim_limited(connection, parameters)
    if floors is not None:
        floors.took(claimed, limit, from_start=begin is NO_FLOORS, seconds=time.monotonic() - started)
    return claimed


def complete_and_claim(
    connection: Connection,
    done: Sequence[Done],
    queue: str,
    worker: str,
    *,
    limit: int,
    lease_s: float = LEASE_S,
    floors: Floors | None = None,
) -> tuple[set[uuid.UUID], list[Claimed]]:
    """End jobs as `complete` does and take the next ones as `claim` does, in one statement.

    Returns:
        The ids that ended, and what was claimed; fewer than `limit` may mean that there are more to `claim`.
    """
    started = time.monotonic()
    begin = floors.text() if floors is not None else NO_FLOORS
    parameters = _done_parameters(done) | _claim_parameters(queue, worker, limit, lease_s, begin)
    try:
        with _nested(connection):
            rows = connection.cursor(binary=True).execute(COMPLETE_AND_CLAIM, parameters).fetchall()
    except (
        psycopg.errors.UniqueViolation
    ):  # two of a concurrency key are ready: a claim alone tells them apart
        return complete(connection, done), []
    ended = {each for row in rows for each in cast(list[uuid.UUID], row[-1] or ())}
    claimed = _in_order([Claimed._make(row[:-1]) for row in rows if row[0] is not None])
    if floors is not None:
        floors.took(claimed, limit, from_start=begin is NO_FLOORS, seconds=time.monotonic() - started)
    left = [each for each in done if each.id not in ended]
    return (ended | complete(connection, left) if left else ended), claimed


def _in_order(claimed: list[Claimed]) -> list[Claimed]:
    """The most urgent first, and of those the oldest."""
    if len(claimed) > 1:
        claimed.sort(key=lambda job: (-job.priority, job.run_at, job.id))
    return claimed


def _claimed(connection: Connection, statement: str, parameters: dict[str, object]) -> list[Claimed] | None:
    """None when two jobs would have the same slot of a concurrency key."""
    try:
        with _nested(connection):
            rows = connection.cursor(binary=True).execute(statement, parameters).fetchall()
    except psycopg.errors.UniqueViolation:
        return None
    return _in_order([Claimed._make(row) for row in rows])


def _nested(connection: Connection) -> contextlib.AbstractContextManager[object]:
    """A savepoint where there is a transaction to be kept whole; a lone statement needs none."""
    return contextlib.nullcontext() if connection.autocommit else connection.transaction()


def _claim_limited(connection: Connection, parameters: dict[str, object]) -> list[Claimed]:
    found = connection.execute(LIMITED, parameters).fetchone()
    if found is None or found[0]:
        return []
    room = int(str(parameters["limit"]))
    if found[1] is not None:
        row = connection.execute(RUNNING, (parameters["queue"],)).fetchone()
        assert row is not None
        room = min(room, int(str(found[1])) - int(str(row[0])))
    if room < 1:
        return []
    connection.execute(bounds.LOCK)
    limited = {**parameters, "limit": room}
    return _claimed(connection, CLAIM_LIMITED, limited) or []


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
    ended: set[uuid.UUID] = set()
    for _ in range(COMPLETE_TRIES):
        left = [each for each in done if each.id not in ended]
        rows = connection.cursor(binary=True).execute(DONE, _done_parameters(left)).fetchall()
        ended |= {row[0] for row in rows if isinstance(row[0], uuid.UUID)}
        if len(ended) == len(done):
            break
    return ended


def _done_parameters(done: Sequence[Done]) -> dict[str, object]:
    return {
        "ids": ",".join([each.id.hex for each in done]),
        "epochs": ",".join([str(each.epoch) for each in done]),
        "results": json.dumps([each.result for each in done]),
    }


def _claim_parameters(queue: str, worker: str, limit: int, lease_s: float, floors: str) -> dict[str, object]:
    return {"queue": queue, "worker": worker, "limit": limit, "lease_s": lease_s, "floors": floors}
