"""The job that looks for drift: asks the served version its canaries, and compares two windows of kept requests.

It lies in this room because the engines' handles and the gateway's translators do. What its result means is
`registry/drift.py`'s.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.cluster.applications import answering_application, application_for
from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.evaluate.prompts import Row, read_rows
from raymill.evaluate.row_files import check_file
from raymill.policies.drift import Severity, worst
from raymill.policies.errors import NotFound, Unavailable
from raymill.registry import canaries, datasets, drift
from raymill.registry.artifacts import address_of
from raymill.registry.comparison import find_version_target
from raymill.registry.drift_config import Canary, DriftConfig, Traffic
from raymill.registry.tables import Canary as CanaryRow
from raymill.registry.tables import CanaryState, Deployment, DriftWatch, LlmVersion
from raymill.registry.traffic import kept_requests
from raymill.serve.canary import Ask, Scores, ask_all, ask_engine, judge
from raymill.serve.drift_features import Sample, sample_of, shifts_of, tell
from raymill.serve.traffic_rows import LeftOut

Found = tuple[JsonObject, Severity, list[str]]
"""What is told, how bad it is, and why."""


class Answering(NamedTuple):
    """Who answers for a target now."""

    llm: str
    number: int
    application: str


class Watch(NamedTuple):
    """All that a look needs of the registry, read once."""

    config: DriftConfig
    artifact: str | None
    """Of the canary's data set."""

    served: Answering | None
    baseline: Scores | None
    """What the canary's scores are held against; None: those of this look will be that."""


def run_drift(context: JobContext) -> Outcome:
    """One look, with the served engine.

    Raises:
        NotFound: the watch was deleted, or the canary's file or data set has gone.
        Unavailable: the target is not served, or does not answer.
        Invalid: a canary cannot be asked, or its file has changed.
    """
    return look(context, ask_engine())


def look(context: JobContext, ask: Ask) -> Outcome:
    """As `run_drift`, with whatever answers."""
    watch_id, trial = uuid.UUID(context.config["watch_id"]), context.config.get("promotion_id")
    watch = context.database.patiently(lambda session: _read(session, watch_id, trial))
    if watch is None:
        digest = address_of("drift", context.config, {})
        return Outcome(
            result={"digest": digest, "skipped": f"the canary of promotion {trial} takes no share"}
        )
    canary, traffic = watch.config.canary, watch.config.traffic
    if trial is not None:
        traffic = None  # what a route is asked is no version's doing
    baseline = None if context.config["baseline"] else watch.baseline
    scores: Scores | None = None
    told: dict[str, Found] = {}
    if canary is not None:
        assert watch.served is not None, "a canary's configuration has a target"
        context.event("phase", name="canary")
        rows = _rows(context, canary, watch.artifact)
        name = f"{watch.served.llm}@{watch.served.number}"
        scores = ask_all(canary, rows, watch.served.application, name, ask, context.check)
        told["canary"] = judge(canary, scores, baseline)
    if traffic is not None:
        context.event("phase", name="traffic")
        told["traffic"] = look_at_traffic(context, traffic, dt.datetime.now(dt.UTC))
    return Outcome(
        result={
            "digest": address_of("drift", context.config, {}),
            "severity": worst([severity for _, severity, _ in told.values()]),
            "reasons": [reason for _, _, why in told.values() for reason in why],
            "version": watch.served.number if watch.served is not None else None,
            "canary": told["canary"][0] if canary is not None else None,
            "traffic": told["traffic"][0] if traffic is not None else None,
            "baseline": scores is not None and baseline is None and trial is None,
            "scores": list(scores.items()) if scores is not None else None,
        }
    )


def look_at_traffic(context: JobContext, traffic: Traffic, now: dt.datetime) -> Found:
    """The recent window of kept requests against the reference."""
    windows = traffic.windows(now)
    left_out: Counter[str] = Counter()
    with context.database.transaction() as session:
        reference, recent = (
            list(_samples(context, session, traffic, window, left_out)) for window in windows
        )
    told: JsonObject = {
        "route": traffic.route,
        "windows": [[moment.isoformat() for moment in window] for window in windows],
        "requests": [len(reference), len(recent)],
        "left_out": dict(left_out.most_common()),
        "shifts": [],
        "skipped": None,
    }
    if min(len(reference), len(recent)) < traffic.min_requests:
        told["skipped"] = (
            f"{len(reference)} requests in the reference and {len(recent)} in the recent window, "
            f"{traffic.min_requests} are needed in each: widen the windows, or set keep_traces on the route"
        )
        return told, "none", []
    shifts = shifts_of(reference, recent, traffic)
    told["shifts"] = [asdict(shift) for shift in shifts]
    found = [shift for shift in shifts if shift.severity != "none"]
    return told, worst([shift.severity for shift in found]), list(map(tell, found))


def _samples(
    context: JobContext,
    session: Session,
    traffic: Traffic,
    window: tuple[dt.datetime, dt.datetime],
    left_out: Counter[str],
) -> Iterator[Sample]:
    given = 0
    for number, kept in enumerate(
        kept_requests(session, route=traffic.route, since=window[0], until=window[1])
    ):
        if given == traffic.max_requests:
            return
        if number % 500 == 0:
            context.check()
        try:
            yield sample_of(kept)
        except LeftOut as why:
            left_out[str(why)] += 1
        else:
            given += 1


def _rows(context: JobContext, canary: Canary, artifact: str | None) -> list[Row]:
    if canary.file is None:
        assert artifact is not None, "a canary is of a data set or of a file"
        return read_rows(context.path(artifact) / "test.jsonl", canary.limit)
    path = Path(canary.file)
    check_file(path, canary.sha256, "one with rows in normal form")
    return read_rows(path, canary.limit)


def _read(session: Session, watch_id: uuid.UUID, trial: str | None) -> Watch | None:
    """None: it is to look at a canary, the one of promotion `trial`, that takes no share any more."""
    row = session.get(DriftWatch, watch_id)
    if row is None:
        raise NotFound(f"watch {watch_id} was deleted: there is nothing to look at")
    config = drift.config_of(row)
    artifact = None
    if config.canary is not None and config.canary.dataset is not None:
        name, _, number = config.canary.dataset.partition("@")
        artifact = datasets.find(session, name, int(number)).artifact_name
    served = None
    if trial is not None:
        tried = session.get(CanaryRow, uuid.UUID(trial))
        if tried is None or tried.state is not CanaryState.RUNNING:
            return None
        served = _trying(session, tried)
    elif config.target is not None and config.canary:
        served = _served(session, config.target)
    baseline = drift.baseline_of(session, row.id)
    return Watch(
        config=config,
        artifact=artifact,
        served=served,
        baseline=dict(baseline.scores or []) if baseline is not None else None,
    )


def _served(session: Session, target: str) -> Answering:
    """Raises NotFound: there is no such version. Unavailable: nothing answers for it."""
    wanted = find_version_target(session, target)
    name = target.partition("@")[2]
    rows = select(Deployment).join(LlmVersion, Deployment.serving_version_id == LlmVersion.id)
    rows = rows.where(Deployment.llm.has(name=wanted.llm))
    rows = (
        rows.where(LlmVersion.number == wanted.number)
        if name.isdigit()
        else rows.where(Deployment.alias == name)
    )
    row = session.scalar(rows.limit(1))
    if row is not None:
        application = answering_application(session, row)
        assert application is not None, "a version answers"
        number = session.get_one(LlmVersion, row.serving_version_id).number
        return Answering(wanted.llm, number, application)
    if name.isdigit():
        for trial in canaries.running(session):
            tried = trial.llm.name, trial.version.number
            if trial.state is CanaryState.RUNNING and tried == (wanted.llm, wanted.number):
                return _trying(session, trial)
    raise Unavailable(f"{target} is not served right now: see `raymill status`")


def _trying(session: Session, row: CanaryRow) -> Answering:
    application = application_for(session, row.version, canaries.serving_of(session, row))
    return Answering(row.llm.name, row.version.number, application)
