"""From rounds to medians, ratios and verdicts."""

from __future__ import annotations

from typing import Any

from benchmarks import goals


def cell(requests_per_s: float, p50_ms: float | None = 1.0) -> dict[str, Any]:
    return {
        "requests_per_s": requests_per_s,
        "p50_ms": p50_ms,
        "p90_ms": p50_ms,
        "p99_ms": p50_ms,
        "rss_mib": 100.0,
        "errors": 0,
    }


def system(*rounds: dict[str, Any]) -> dict[str, Any]:
    return {"rounds": list(rounds), "median": goals.medians(rounds)}


def test_the_median_of_three_rounds_is_the_middle_one() -> None:
    found = goals.medians([{"16": cell(10)}, {"16": cell(90)}, {"16": cell(20)}])
    assert found["16"]["requests_per_s"] == 20


def test_a_round_without_any_answer_has_no_latency_and_does_not_count() -> None:
    found = goals.medians([{"16": cell(0, None)}, {"16": cell(10, 3.0)}])
    assert found["16"]["p50_ms"] == 3.0


def test_a_peer_that_is_missing_has_no_ratio() -> None:
    systems = {"raymill": system({"16": cell(2000)}), "uvicorn": system({"16": cell(3200)}), "portkey": None}
    assert goals.ratios(systems) == {"vs_portkey_c16": None, "vs_litellm_c16": None, "vs_uvicorn_c16": 0.625}


def test_what_is_added_is_compared_within_each_round() -> None:
    ours = system({"1": cell(1, 0.6)}, {"1": cell(1, 5.4)}, {"1": cell(1, 0.9)})
    direct = system({"1": cell(1, 0.1)}, {"1": cell(1, 5.0)}, {"1": cell(1, 0.2)})
    assert goals.added_p50_ms({"raymill": ours, "direct": direct}) == 0.5


def test_a_goal_is_met_missed_or_not_measured() -> None:
    judged = goals.judge({"ratios": {"vs_uvicorn_c16": 0.6, "vs_portkey_c16": 3.9, "vs_litellm_c16": None}})
    verdicts = [judged[f"ratios.vs_{peer}_c16"]["met"] for peer in ("uvicorn", "portkey", "litellm")]
    assert verdicts == [True, False, None]
    assert judged["streams.broken"] == {"goal": "<= 0", "value": None, "met": None}


def test_memory_that_shrinks_has_drifted_too() -> None:
    judged = goals.judge({"raymill": {"rss_drift_percent": -6.0}})
    assert judged["raymill.rss_drift_percent"]["met"] is False
