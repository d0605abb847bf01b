"""A canary as the control plane tells it: both sides, the time that is left, and what decides."""

from __future__ import annotations

import datetime as dt
from typing import Any

from raymill.client import types as wire
from raymill.registry import canaries, tables
from raymill.registry.canary_config import CanaryConfig


def canary(row: tables.Canary) -> wire.Canary:
    config = canaries.config_of(row)
    over = row.ended_at is not None
    now = dt.datetime.now(dt.UTC)
    left_s = (
        max(0.0, config.for_s - canaries.elapsed_s(row, now))
        if row.step_at is not None and not over
        else None
    )
    measured = row.measured or {}
    sides = [
        _side(measured.get(name, {}), version.number)
        for name, version in (("canary", row.version), ("current", row.current))
    ]
    return wire.Canary(
        state=row.state.value,
        share=canaries.share_of(row),
        shares=list(config.shares),
        canary=sides[0],
        current=sides[1],
        since=row.step_at,
        measured_at=row.looked_at,
        left_s=left_s,
        decides=row.reason or _decides(row, config, sides, left_s),
        config=config,
        ended_at=row.ended_at,
    )


def _side(measured: dict[str, Any], version: int) -> wire.CanarySide:
    requests, errors = measured.get("requests", 0), measured.get("errors", 0)
    kept = {name: measured[name] for name in ("p95_ms", "scores", "score_mean") if name in measured}
    return wire.CanarySide(
        version=version,
        requests=requests,
        errors=errors,
        error_rate=errors / requests if requests else 0.0,
        **kept,
    )


def _decides(
    row: tables.Canary, config: CanaryConfig, sides: list[wire.CanarySide], left_s: float | None
) -> str:
    """What it waits for, and what would end it."""
    if row.state is tables.CanaryState.ADVANCED:
        return "no limit was crossed: the alias has moved"
    if left_s is None:
        return "it is being deployed"
    missing = [
        f"{config.min_requests - side.requests} requests of version {side.version}"
        for side in sides
        if side.requests < config.min_requests
    ]
    waits = [*([f"{left_s:.0f} s"] if left_s else []), *missing]
    last = row.step + 1 == len(config.shares)
    then = "the alias moves" if last else f"it takes {config.shares[row.step + 1]:.0%}"
    limits = config.limits
    ends = [
        f"{limits.max_error_rate:.0%} errors",
        f"{limits.error_rate:.2%} more errors" if limits.error_rate is not None else "",
        f"a p95 latency {limits.latency_ratio:g} times as long" if limits.latency_ratio is not None else "",
        f"scores lower by {limits.score_drop:g}" if limits.score_drop is not None else "",
        f"{limits.drift} drift" if limits.drift is not None else "",
    ]
    after = f"after {', '.join(waits)} more " if waits else "at the next look "
    return f"{after}{then}; {', '.join(filter(None, ends))} would end it"
