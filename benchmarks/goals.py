"""From what was measured to ratios, and from these to goals met or missed. Pure.

Names with dots are paths into the results, such as `ratios.vs_portkey_c16`.
"""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Results = dict[str, Any]
Cell = Mapping[str, Any]
"""One measurement of one system at one number of connections."""


class Goal(NamedTuple):
    """What a number should be."""

    name: str
    sign: str
    bound: float

    def met(self, value: float) -> bool:
        compare: Callable[[float, float], bool] = operator.ge if self.sign == ">=" else operator.le
        return compare(abs(value) if self.name.endswith("drift_percent") else value, self.bound)


GOALS = (
    Goal("ratios.vs_portkey_c16", ">=", 4.0),
    Goal("ratios.vs_litellm_c16", ">=", 40.0),
    Goal("ratios.vs_uvicorn_c16", ">=", 0.5),
    Goal("raymill.added_p50_ms_c1", "<=", 0.7),
    Goal("raymill.added_first_token_ms", "<=", 2.0),
    Goal("raymill.rss_mib", "<=", 350.0),
    Goal("raymill.rss_drift_percent", "<=", 5.0),
    Goal("streams.broken", "<=", 0),
    Goal("streams.events_missing", "<=", 0),
    Goal("records.unmatched", "<=", 0),
    Goal("records.off_by_micro_usd", "<=", 0),
)
RATED_CONNECTIONS = "16"
PEERS = ("portkey", "litellm", "uvicorn")


def judge(results: Results, goals: Sequence[Goal] = GOALS) -> dict[str, Results]:
    """Each goal with its value; what was not measured has neither value nor verdict."""
    judged: dict[str, Results] = {}
    for goal in goals:
        value = at(results, goal.name)
        met = None if value is None else goal.met(value)
        judged[goal.name] = {"goal": f"{goal.sign} {goal.bound:g}", "value": value, "met": met}
    return judged


def at(results: Results, path: str) -> Any:
    """What stands at a dotted path, or None."""
    found: Any = results
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def medians(rounds: Sequence[Mapping[str, Cell]]) -> dict[str, Results]:
    """Of a system's rounds: connections -> the median of each number."""
    found: dict[str, Results] = {}
    for connections in rounds[0] if rounds else ():
        cells = [each[connections] for each in rounds if connections in each]
        numbers = ("requests_per_s", "p50_ms", "p90_ms", "p99_ms", "rss_mib", "errors")
        found[connections] = {name: _median([cell[name] for cell in cells]) for name in numbers}
    return found


def ratios(systems: Mapping[str, Results | None]) -> dict[str, float | None]:
    """Requests a second of Raymill over those of each peer."""
    ours = at({"systems": systems}, f"systems.raymill.median.{RATED_CONNECTIONS}.requests_per_s")
    found: dict[str, float | None] = {}
    for peer in PEERS:
        theirs = at({"systems": systems}, f"systems.{peer}.median.{RATED_CONNECTIONS}.requests_per_s")
        found[f"vs_{peer}_c16"] = round(ours / theirs, 3) if ours and theirs else None
    return found


def added_p50_ms(systems: Mapping[str, Results | None]) -> float | None:
    """What Raymill adds at one connection: the median over the rounds of the difference to the mock itself."""
    ours, direct = systems.get("raymill"), systems.get("direct")
    if not ours or not direct:
        return None
    pairs = zip(ours["rounds"], direct["rounds"], strict=True)
    return _median([one["1"]["p50_ms"] - other["1"]["p50_ms"] for one, other in pairs])


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None
