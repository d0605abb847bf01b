"""Looking at canaries: what both versions' requests say, and what follows: wait, a greater share, the move, the end.

A look reads the usage records of the share that runs, and holds up nobody meanwhile: reading may take seconds, and who
freezes an alias is in a hurry. Then it has the turn of the model's aliases, sees that nothing has moved, decides by
`policies/canary.py`, and changes rows in that transaction. It is asked for by the loop of triggers every second; when a
canary is due is in its row, so any number of processes may look, and one that is killed leaves nothing half done. A look at
a long canary costs more, so looks become rarer with its age.
"""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from raymill.policies import canary as rule
from raymill.policies.canary import LATENCY_QUANTILE, Bounds, Side
from raymill.policies.drift import RANK
from raymill.policies.errors import Conflict
from raymill.registry import aliases, audit, canaries, deployments, drift, promotion, requests, triggers
from raymill.registry.audit import SYSTEM, Actor
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.database import Database, clock
from raymill.registry.jobs import notify
from raymill.registry.tables import (
    Canary,
    CanaryState,
    DeploymentState,
    DriftRun,
    DriftWatch,
    JsonObject,
    Promotion,
    PromotionState,
)

log = logging.getLogger(__name__)

LOOK_S = 5.0
RARER = 0.01
"""Of a share's age: the time between two looks at it, when that is longer."""

# Both sides of one share. A canary's request that another target had to answer is an error, and so is one that was
# refused (4xx): clients are the same on both sides, so more refusals are the version's doing; only what is not the
# client's is broken. Latencies are of whole answers by the side's own version, and, as a lower bound, of what a client
# gave up: else a version that never answers would look like one that nobody asked. A latency of the current version
# counts `ratio`-fold, and what does not lie below the common percentile is slow.
MEASURE = f"""
WITH asked AS MATERIALIZED (
    SELECT arm = 'canary' AS new, request_id, account_id, latency_ms,
           model = CASE WHEN arm = 'canary' THEN :new ELSE :current END AS own, outcome, status
    FROM usage
    WHERE canary_id = :id AND at >= :since AND arm IS NOT NULL AND outcome <> 'cached'
), said AS (
    SELECT new, outcome IN ('broken', 'lost', 'error') OR (outcome = 'ok' AND NOT own) AS failed,
           outcome = 'error' AND status < 500 AS refused,
           CASE WHEN (outcome = 'ok' AND own) OR outcome = 'cancelled' THEN latency_ms END AS latency_ms,
           score
    FROM asked LEFT JOIN feedback
        ON feedback.request_id = asked.request_id AND feedback.account_id = asked.account_id AND feedback.at >= :since
), bound AS (
    SELECT percentile_disc({LATENCY_QUANTILE}) WITHIN GROUP (
        ORDER BY latency_ms * CASE WHEN new THEN 1 ELSE :ratio END) AS ms
    FROM said WHERE latency_ms IS NOT NULL
)
SELECT new, count(*) AS requests, count(*) FILTER (WHERE failed) AS errors,
       count(*) FILTER (WHERE failed AND NOT refused) AS broken, count(latency_ms) AS answers,
       percentile_cont({LATENCY_QUANTILE}) WITHIN GROUP (ORDER BY latency_ms) AS p95_ms,
       count(*) FILTER (WHERE latency_ms * CASE WHEN new THEN 1 ELSE :ratio END >= bound.ms) AS slow,
       count(score) AS scores, avg(score) AS score_mean, coalesce(var_samp(score), 0) AS score_variance
FROM said LEFT JOIN bound ON true
GROUP BY new
"""


class Measured(NamedTuple):
    canary: Side
    current: Side


class Seen(NamedTuple):
    """What a look reads before it has the turn."""

    mark: tuple[object, ...]
    """Of the share and the look before: what was read counts while they are the same."""

    found: Measured
    drift: str | None


def due(database: Database) -> int:
    """Look at each canary whose time has come. Returns how many have gone on or ended."""
    with database.transaction() as session:
        now = clock(session)
        waiting = [row.promotion_id for row in canaries.running(session) if _may_be_due(row, now)]
    gone_on = 0
    for each in waiting:
        try:
            gone_on += look(database, each)
        except (
            Exception
        ):  # one that cannot be looked at keeps no other from its look, and no trigger from firing
            log.exception("the canary of promotion %s could not be looked at", each)
    return gone_on


def look(database: Database, promotion_id: uuid.UUID) -> bool:
    """One look at one canary, and what follows from it. Returns whether anything did."""
    seen = database.patiently(partial(_see, promotion_id=promotion_id))
    return seen is not None and database.patiently(partial(_follow, promotion_id=promotion_id, seen=seen))


def _see(session: Session, promotion_id: uuid.UUID) -> Seen | None:
    """None: it runs no more, or another process was first."""
    row = session.get(Canary, promotion_id)
    if row is None or row.ended_at is not None or not _is_due(row, clock(session)):
        return None
    return Seen(_mark(row), measure(session, row), _drift(session, row, canaries.config_of(row)))


def _mark(row: Canary) -> tuple[object, ...]:
    return row.step, row.step_at, row.looks, row.looked_at


def _follow(session: Session, promotion_id: uuid.UUID, seen: Seen) -> bool:
    row = _in_turn(session, promotion_id)
    if row is None or _mark(row) != seen.mark:  # it ended meanwhile, or another process was first
        return False
    now, found = clock(session), seen.found
    config, elapsed_s = canaries.config_of(row), canaries.elapsed_s(row, now)
    row.measured, row.looked_at = {side: asdict(each) for side, each in found._asdict().items()}, now
    bounds = bounds_of(config)
    why = [reason for reason in (rule.hopeless(found.canary, bounds), seen.drift) if reason]
    fewest = min(found.canary.requests, found.current.requests)
    enough = fewest >= config.min_requests
    timely = elapsed_s >= config.for_s and row.state is CanaryState.RUNNING
    if not why and enough and (timely or fewest >= config.min_requests * 2**row.looks):
        why = rule.worse(
            found.canary, found.current, bounds, alpha=config.alpha / len(config.shares), look=row.looks
        )
        row.looks += 1
        if not why and timely:
            if not canaries.next_step(session, row):
                _advance(session, row, SYSTEM)
            _tell(session, row)
            return True
    if not why and elapsed_s >= config.max_s:
        why = [
            f"after {config.max_s:g} s only {found.canary.requests} and {found.current.requests} requests had come, "
            f"{config.min_requests} of each version are needed"
        ]
    if not why:
        return False
    _go_back(session, row, "; ".join(why), SYSTEM)
    return True


def measure(session: Session, row: Canary) -> Measured:
    """Both sides of the share that runs."""
    if row.step_at is None:
        return Measured(Side(), Side())
    llm, ratio = row.llm.name, bounds_of(canaries.config_of(row)).latency_ratio
    values = {
        "id": row.promotion_id,
        "since": row.step_at,
        "new": f"{llm}@{row.version.number}",
        "current": f"{llm}@{row.current.number}",
        "ratio": ratio or 1.0,
    }
    sides = {
        each.pop("new"): Side(**each) for each in map(dict, session.execute(text(MEASURE), values).mappings())
    }
    return Measured(sides.get(True, Side()), sides.get(False, Side()))


def bounds_of(config: CanaryConfig) -> Bounds:
    limits = config.limits
    return Bounds(
        error_rate=limits.error_rate,
        max_error_rate=limits.max_error_rate,
        latency_ratio=limits.latency_ratio,
        score_drop=limits.score_drop,
    )


def advance(session: Session, promotion_id: uuid.UUID, actor: Actor) -> Promotion:
    """Move the alias now, whatever share the canary has come to.

    Raises:
        NotFound: there is no such promotion.
        Conflict: it has no canary that runs, or the version may not be there any more.
    """
    row = _by_hand(session, promotion_id)
    promotion.check_free(session, row.version, row.alias)
    _move(session, row, actor)
    _tell(session, row)
    return row.promotion


def abort(session: Session, promotion_id: uuid.UUID, actor: Actor, reason: str | None = None) -> Promotion:
    """End the canary; the alias stays where it is. Raises as `advance`."""
    row = _by_hand(session, promotion_id)
    told = f"aborted by {actor.name}" + (f": {reason}" if reason else "")
    ended = canaries.end(session, row.llm_id, row.alias, told, actor)
    assert ended is not None, "it was seen to run in this turn"
    _tell(session, row)
    return ended


def report(
    session: Session,
    promotion_id: uuid.UUID,
    state: DeploymentState,
    message: str,
    config: JsonObject | None = None,
) -> None:
    """What became of its deployment: called by the reconciler. A version that cannot be served ends its canary.

    Args:
        config: the settings that this is about; what is told of settings that were replaced meanwhile counts for nothing.
    """
    row = _in_turn(session, promotion_id)
    if row is None or (config is not None and config != canaries.serving_of(session, row)):
        return
    if state is DeploymentState.FAILED:
        _go_back(session, row, f"version {row.version.number} cannot be served: {message}", SYSTEM)
        return
    waited = row.step_at is None
    canaries.report(
        session, row, CanaryState.RUNNING if state is DeploymentState.READY else CanaryState.STARTING
    )
    if waited and row.step_at is not None:
        drift.look_at_canary(session, row.llm.name, row.alias)
    _tell(session, row)


def _advance(session: Session, row: Canary, actor: Actor) -> None:
    try:
        promotion.check_free(session, row.version, row.alias)
    except Conflict as error:
        _go_back(session, row, str(error), actor)
    else:
        _move(session, row, actor)


def _move(session: Session, row: Canary, actor: Actor) -> None:
    ready = row.state is CanaryState.RUNNING
    share = canaries.share_of(row)
    moved = canaries.close(session, row, CanaryState.ADVANCED, None, actor)
    moved.state = PromotionState.DECIDED
    audit.record(
        session, actor, "canary.advance", f"promotion/{moved.id}", share=share, measured=row.measured
    )
    aliases.move(session, row.version, moved, actor)
    deployments.take_over(session, row.version, row.alias, moved.serving, actor, ready=ready)


def _go_back(session: Session, row: Canary, reason: str, actor: Actor) -> None:
    ended = canaries.end(session, row.llm_id, row.alias, reason, actor)
    assert ended is not None, "it was seen to run in this turn"
    subject, about = f"canary/{row.llm.name}@{row.alias}", {"version": row.version.number, "reason": reason}
    cause = aliases.pipeline_behind(session, ended.job_id)
    triggers.happened(session, "drift", subject, str(ended.id), about, caused_by=cause)
    _tell(session, row)


def _tell(session: Session, row: Canary) -> None:
    notify(session, aliases.ALIAS_CHANNEL, row.llm.name)


def _in_turn(session: Session, promotion_id: uuid.UUID) -> Canary | None:
    """As it is now, and stays until the caller's commit; None: it runs no more."""
    asked = requests.find_in_turn(session, promotion_id)
    row = canaries.running_at(session, asked.version.llm_id, asked.alias)
    return row if row is not None and row.promotion_id == promotion_id else None


def _by_hand(session: Session, promotion_id: uuid.UUID) -> Canary:
    row = _in_turn(session, promotion_id)
    if row is None:
        state = requests.state_of(requests.find(session, promotion_id), clock(session))
        raise Conflict(
            f"promotion {promotion_id} is {state}: only one whose canary runs can advance or be aborted"
        )
    return row


def _may_be_due(row: Canary, now: dt.datetime) -> bool:
    """True also where the row cannot be read: `look` says why not."""
    try:
        return _is_due(row, now)
    except ValueError:
        return True


def _is_due(row: Canary, now: dt.datetime) -> bool:
    age_s = canaries.elapsed_s(row, now)
    if row.step_at is None:
        return age_s >= canaries.config_of(row).max_s
    return row.looked_at is None or (now - row.looked_at).total_seconds() >= max(LOOK_S, RARER * age_s)


def _drift(session: Session, row: Canary, config: CanaryConfig) -> str | None:
    """What a watch found in the new version since it answers."""
    if config.limits.drift is None or row.step_at is None:
        return None
    severities = [name for name, rank in RANK.items() if rank >= RANK[config.limits.drift]]
    found = session.execute(
        select(DriftRun.severity, DriftWatch.name, DriftRun.reasons)
        .join(DriftWatch, DriftWatch.id == DriftRun.watch_id)
        .where(DriftRun.at >= row.step_at, DriftRun.version == row.version.number)
        .where(DriftRun.severity.in_(severities))
        .where(DriftWatch.config["target"].astext.startswith(f"{row.llm.name}@", autoescape=True))
        .order_by(DriftRun.id)
        .limit(1)
    ).first()
    return f"{found.severity} drift by {found.name}: {'; '.join(found.reasons)}"[:500] if found else None
