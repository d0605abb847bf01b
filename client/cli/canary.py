"""What the commands of promotions and environments say of canaries: options, and how one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymill.client.cli.given import yaml_section
from raymill.client.types import Canary, CanarySide, JsonObject
from raymill.registry.canary_config import CanaryConfig

HOUR_S = 3600

Shares = Annotated[
    list[float] | None,
    typer.Option(
        "--canary",
        metavar="SHARE",
        help="Of the alias's requests, such as 0.1, before the alias moves; may be repeated, each greater.",
        show_default=False,
    ),
]
ForHours = Annotated[
    float | None,
    typer.Option(min=0, help="Hours that each share lasts at least; 1 by default.", show_default=False),
]
LeastRequests = Annotated[
    int | None,
    typer.Option(
        min=1, help="Requests of each version that a share takes; 200 by default.", show_default=False
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="YAML with all settings of a canary; options go before it.", show_default=False
    ),
]


def canary_of(
    shares: list[float] | None, for_h: float | None, requests: int | None, file: Path | None
) -> JsonObject | None:
    """What the options come to; None: none of them was given."""
    whole: JsonObject = yaml_section(file) if file is not None else {}
    if shares:
        whole.pop("share", None)
        whole["steps"] = shares
    if for_h is not None:
        whole["for_s"] = for_h * HOUR_S
    if requests is not None:
        whole["min_requests"] = requests
    return whole if whole or file is not None else None


def told_shares(config: CanaryConfig) -> str:
    return ", ".join(f"{share:.3g}" for share in config.shares)


def canary_rows(found: Canary | None) -> list[tuple[str, object]]:
    """Lines of a table."""
    if found is None:
        return []
    rows: list[tuple[str, object]] = [
        (
            "canary",
            f"{found.state}, {found.share:.3g} of the requests, of {', '.join(f'{s:.3g}' for s in found.shares)}",
        ),
        ("since", found.since),
        ("version tried", _told(found.canary)),
        ("version there", _told(found.current)),
        ("measured", found.measured_at),
        ("time left", f"{found.left_s:.0f} s" if found.left_s is not None else None),
        ("decides", found.decides),
    ]
    return rows


def _told(side: CanarySide) -> str:
    latency = f", p95 {side.p95_ms:.0f} ms" if side.p95_ms is not None else ""
    scores = f", score {side.score_mean:.2f} of {side.scores}" if side.score_mean is not None else ""
    return f"{side.version}: {side.requests} requests, {side.errors} errors ({side.error_rate:.2%}){latency}{scores}"
