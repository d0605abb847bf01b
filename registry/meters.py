"""How much of each limit is used, and how much of it gateway replicas hold: exact under any concurrency.

    limit = used + leased + what is left          (of one meter in one window)
    leased = sum of the leases above 0            (meter_lease)
    lease  = granted - given back - ingested use  (what a replica still has, or owes when it is below 0)

A lease below 0 is a debt: the replica used more than it held, which the meter's `used` knows already; its
next lease pays it first. Whoever changes a meter's leases locks the meter's row, meters in order of
(name, bucket); a statement after that lock sees all that others committed before it.

Plain psycopg, in the caller's transaction: the asynchronous calls are a replica's, the others the
ingester's. Knows no requests and no money. A bucket is the Unix time at which the meter's UTC window
starts, 0 for total and now.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, NamedTuple, TypeAlias

from psycopg import AsyncConnection, Connection

from raymill.policies.errors import RaymillError

METER_CHANNEL = "raymill_meter"
"""Notified with a meter's name by a replica that got no lease because others hold it: give back what is idle."""

LOST_AFTER_S = 120.0
"""A replica that was not seen for this long has lost its leases. It stops using them well before that."""

MINUTES_KEPT_S = 3600.0
DAYS_KEPT_S = 8 * 86_400.0
"""How long meters of past minutes and days are kept. A late record makes its meter anew, which harms nothing."""

MeterKey: TypeAlias = tuple[str, int]
"""A meter's name and the bucket."""


class Ask(NamedTuple):
    """A replica wants a lease of at least `need`; `want` is the most it can do with."""

    name: str
    bucket: int
    limit: int
    need: int
    want: int
    urgent: bool
    """Somebody waits for it: when nothing is left, the other replicas are asked for what they do not use."""


class LeaseAnswer(NamedTuple):
    granted: int
    """0: what is left does not hold `need`."""

    used: int
    leased_by_all: int
    mine: int
    """This replica's lease, the grant included: what it has free, in reservations, and used but not ingested."""


class Exchanged(NamedTuple):
    answers: list[LeaseAnswer]
    transaction: str
    """Its id, to ask whether it was committed when nobody answered the COMMIT."""


class ReplicaLost(RaymillError):
    """The replica was not seen for too long, and its leases went to others."""

    code = "replica_lost"


# A replica begins to hold leases.
REGISTER: LiteralString = """
INSERT INTO gateway_replica (id, node, seen_at) VALUES (%(replica)s, %(node)s, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET node = excluded.node, seen_at = clock_timestamp()
"""

# The replica lives. No row: it was swept. Taken before every lease, so that no lease slips past a sweep.
SEEN: LiteralString = """
UPDATE gateway_replica SET seen_at = clock_timestamp() WHERE id = %(replica)s RETURNING id
"""

# Meters that nobody has used yet.
MAKE: LiteralString = """
INSERT INTO meter (name, bucket, used, leased)
SELECT name, bucket, 0, 0 FROM unnest(%(names)s::text[], %(buckets)s::bigint[]) AS asked (name, bucket)
ORDER BY name, bucket
ON CONFLICT (name, bucket) DO NOTHING
"""

# Hold the meters until the end of the transaction; in order, so that no two wait for each other.
LOCK: LiteralString = """
SELECT 1 FROM meter JOIN unnest(%(names)s::text[], %(buckets)s::bigint[]) AS asked (name, bucket)
    USING (name, bucket)
ORDER BY name, bucket
FOR UPDATE OF meter
"""

# Grant what is needed where it fits, and up to an eighth of what is left, so that replicas share it.
# What a lease lies below 0 is in `used` already: paying it takes nothing from what is left.
LEASE: LiteralString = """
WITH asked AS (
    SELECT * FROM unnest(%(names)s::text[], %(buckets)s::bigint[], %(limits)s::bigint[], %(needs)s::bigint[],
                         %(wants)s::bigint[], %(urgent)s::bool[])
             WITH ORDINALITY AS asked (name, bucket, most, need, want, urgent, nr)),
found AS (
    SELECT asked.*, meter.used, meter.leased, coalesce(lease.amount, 0) AS mine,
           greatest(most - used - leased, 0) + greatest(-coalesce(lease.amount, 0), 0) AS room
    FROM asked JOIN meter USING (name, bucket)
    LEFT JOIN meter_lease AS lease ON lease.replica_id = %(replica)s
        AND lease.name = asked.name AND lease.bucket = asked.bucket),
granted AS (
    SELECT *, CASE WHEN room >= need THEN least(room, greatest(need, least(want, room / 8))) ELSE 0 END AS amount
    FROM found),
answered AS (
    SELECT *, greatest(mine + amount, 0) - greatest(mine, 0) AS more FROM granted),
held AS (
    INSERT INTO meter_lease (replica_id, name, bucket, amount)
    SELECT %(replica)s, name, bucket, amount FROM answered WHERE amount > 0
    ON CONFLICT (replica_id, name, bucket) DO UPDATE SET amount = meter_lease.amount + excluded.amount),
taken AS (
    UPDATE meter SET leased = meter.leased + answered.more FROM answered
    WHERE meter.name = answered.name AND meter.bucket = answered.bucket AND answered.more > 0)
SELECT amount, used, leased + more, mine + amount,
       CASE WHEN urgent AND amount = 0 AND used + need <= most AND leased > greatest(mine, 0)
            THEN pg_notify(%(channel)s, name)::text END
FROM answered ORDER BY nr
"""

# What a replica does not need any more.
GIVE_BACK: LiteralString = """
WITH given AS (
    SELECT asked.name, asked.bucket, least(asked.amount, greatest(lease.amount, 0)) AS amount
    FROM unnest(%(names)s::text[], %(buckets)s::bigint[], %(amounts)s::bigint[]) AS asked (name, bucket, amount)
    JOIN meter_lease AS lease ON lease.replica_id = %(replica)s
        AND lease.name = asked.name AND lease.bucket = asked.bucket),
kept AS (
    UPDATE meter_lease SET amount = meter_lease.amount - given.amount FROM given
    WHERE meter_lease.replica_id = %(replica)s
      AND meter_lease.name = given.name AND meter_lease.bucket = given.bucket)
UPDATE meter SET leased = meter.leased - given.amount FROM given
WHERE meter.name = given.name AND meter.bucket = given.bucket
"""

# Use that a replica recorded moves from its lease to the meter. A replica that was swept has no lease any more.
APPLY: LiteralString = """
WITH spent AS (
    SELECT asked.name, asked.bucket, asked.amount, coalesce(lease.amount, 0) AS lease
    FROM unnest(%(names)s::text[], %(buckets)s::bigint[], %(amounts)s::bigint[]) AS asked (name, bucket, amount)
    LEFT JOIN meter_lease AS lease ON lease.replica_id = %(replica)s
        AND lease.name = asked.name AND lease.bucket = asked.bucket),
drawn AS (
    INSERT INTO meter_lease (replica_id, name, bucket, amount)
    SELECT %(replica)s, name, bucket, -amount FROM spent
    WHERE EXISTS (SELECT 1 FROM gateway_replica WHERE id = %(replica)s)
    ON CONFLICT (replica_id, name, bucket) DO UPDATE SET amount = meter_lease.amount + excluded.amount)
UPDATE meter
SET used = meter.used + spent.amount,
    leased = meter.leased - (greatest(spent.lease, 0) - greatest(spent.lease - spent.amount, 0))
FROM spent WHERE meter.name = spent.name AND meter.bucket = spent.bucket
"""

# Replicas that were not seen for long.
LOST: LiteralString = """
DELETE FROM gateway_replica WHERE seen_at < clock_timestamp() - make_interval(secs => %(lost_after_s)s)
RETURNING id
"""

# A replica that is known to be dead.
FORGET_REPLICA: LiteralString = "DELETE FROM gateway_replica WHERE id = %(replica)s"

# The meters that a replica has leases of, held as by LOCK.
LOCK_HELD: LiteralString = """
SELECT 1 FROM meter JOIN meter_lease AS lease USING (name, bucket) WHERE lease.replica_id = %(replica)s
ORDER BY name, bucket
FOR UPDATE OF meter
"""

# A dead replica's leases go back to their meters.
RETURN_LEASES: LiteralString = """
WITH gone AS (
    DELETE FROM meter_lease WHERE replica_id = %(replica)s RETURNING name, bucket, amount)
UPDATE meter SET leased = meter.leased - gone.amount FROM gone
WHERE meter.name = gone.name AND meter.bucket = gone.bucket AND gone.amount > 0
"""

# Leases in windows that are long over, and after them the meters; they are small but there are many.
OLD: LiteralString = """
bucket > 0 AND (
    name LIKE '%%/minute' AND bucket < extract(epoch FROM clock_timestamp()) - %(minutes_kept_s)s
 OR name LIKE '%%/day' AND bucket < extract(epoch FROM clock_timestamp()) - %(days_kept_s)s)
"""
FORGET_LEASES: LiteralString = "DELETE FROM meter_lease WHERE " + OLD
FORGET_METERS: LiteralString = "DELETE FROM meter WHERE " + OLD

# Whether a transaction took effect whose COMMIT nobody answered.
OUTCOME: LiteralString = "SELECT pg_xact_status(%(transaction)s::xid8)"

TRANSACTION: LiteralString = "SELECT pg_current_xact_id()::text"


async def register(connection: AsyncConnection[Any], replica_id: uuid.UUID, node: str) -> None:
    await connection.execute(REGISTER, {"replica": replica_id, "node": node})


async def exchange(
    connection: AsyncConnection[Any],
    replica_id: uuid.UUID,
    given: Mapping[MeterKey, int],
    asks: Sequence[Ask],
) -> Exchanged:
    """One contact of a replica: it lives, gives idle parts of leases back, and is granted others.

    Args:
        given: More than the lease holds gives back all of it.
        asks: One for each meter and bucket. A grant is 0, or between the need and the want.

    Raises:
        ReplicaLost: it comes too late.
    """
    names, buckets, limits, needs, wants, urgent = map(list, zip(*asks, strict=True)) if asks else [[]] * 6
    held: dict[str, Any] = {"replica": replica_id, "names": [*names], "buckets": [*buckets]}
    for name, bucket in given:
        held["names"].append(name)
        held["buckets"].append(bucket)
    asked = {"replica": replica_id, "names": names, "buckets": buckets, "limits": limits, "needs": needs}
    asked |= {"wants": wants, "urgent": urgent, "channel": METER_CHANNEL}
    answers = None
    async with connection.pipeline():  # one round trip
        alive = await connection.execute(SEEN, held)
        if given or asks:
            await connection.execute(MAKE, held)
            await connection.execute(LOCK, held)
        if given:
            await connection.execute(GIVE_BACK, _columns(replica_id, given))
        if asks:
            answers = await connection.execute(LEASE, asked)
        transaction = await connection.execute(TRANSACTION)
    if await alive.fetchone() is None:
        raise ReplicaLost(
            f"replica {replica_id} was not seen for too long, so its leases went to others: start another"
        )
    granted = [LeaseAnswer(*row[:4]) for row in await answers.fetchall()] if answers else []
    (transaction_id,) = await transaction.fetchone() or ("",)
    return Exchanged(granted, transaction_id)


async def outcome(connection: AsyncConnection[Any], transaction: str) -> str | None:
    """`committed`, `aborted` or `in progress`; None when it is too long ago to know."""
    row = await (await connection.execute(OUTCOME, {"transaction": transaction})).fetchone()
    return row[0] if row else None


def apply(connection: Connection[Any], replica_id: uuid.UUID, used: Mapping[MeterKey, int]) -> None:
    """Add a replica's recorded use to the meters, and take it off its leases."""
    if not used:
        return
    asked = _columns(replica_id, used)
    for statement in (MAKE, LOCK, APPLY):
        connection.execute(statement, asked)


def drop(connection: Connection[Any], replica_id: uuid.UUID) -> None:
    """Give the leases of a dead replica back, and forget it."""
    asked = {"replica": replica_id}
    for statement in (FORGET_REPLICA, LOCK_HELD, RETURN_LEASES):
        connection.execute(statement, asked)


def sweep(connection: Connection[Any], lost_after_s: float = LOST_AFTER_S) -> list[uuid.UUID]:
    """Give back the leases of replicas that were not seen for `lost_after_s`. Returns the replicas."""
    lost = [row[0] for row in connection.execute(LOST, {"lost_after_s": lost_after_s})]
    for replica_id in lost:
        drop(connection, replica_id)
    return lost


def forget_old(
    connection: Connection[Any],
    *,
    minutes_kept_s: float = MINUTES_KEPT_S,
    days_kept_s: float = DAYS_KEPT_S,
) -> None:
    """Drop meters, and what is left of their leases, of minutes and days that are long over."""
    kept = {"minutes_kept_s": minutes_kept_s, "days_kept_s": days_kept_s}
    for statement in (FORGET_LEASES, FORGET_METERS):
        connection.execute(statement, kept)


def _columns(replica_id: uuid.UUID, amounts: Mapping[MeterKey, int]) -> dict[str, object]:
    names, buckets = map(list, zip(*amounts, strict=True))
    return {"replica": replica_id, "names": names, "buckets": buckets, "amounts": list(amounts.values())}
