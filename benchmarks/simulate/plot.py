"""The picture beside the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raymill.serve.api.chart import draw_runs

STATIONS = ("haproxy", "replicas", "ingest", "postgres")
BUSY, SHARE = "nodes_with_a_job_of_30_minutes,_by_nodes", "share_of_a_station's_time,_by_requests_a_second"


def beside(target: Path, results: dict[str, Any]) -> str:
    """Draw nodes kept busy by one dispatcher, and how used each station is by rate, next to `target`. Returns the
    picture's name.
    """
    heavy = [each for name, each in results["heavy_jobs"].items() if name.endswith(" nodes")]
    rates = [each for each in results["requests"].values() if "layout" in each]
    curves = {
        "nodes kept busy": [{"step": each["nodes"], BUSY: each["running"]} for each in heavy],
        "all nodes": [{"step": each["nodes"], BUSY: each["nodes"]} for each in heavy],
    } | {name: [{"step": each["requests_per_s"], SHARE: each[name]} for each in rates] for name in STATIONS}
    picture = target.with_suffix(".png")
    picture.write_bytes(draw_runs(curves, (BUSY, SHARE), "png"))
    return picture.name
