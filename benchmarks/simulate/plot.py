"""The picture beside the results, where matplotlib is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

STATIONS = ("haproxy", "replicas", "ingest", "postgres")


def beside(target: Path, results: dict[str, Any]) -> str:
    """Draw nodes kept busy and utilisations by rate next to `target`. Returns what to say of it."""
    if importlib.util.find_spec("matplotlib") is None:
        return "; no plot, for matplotlib is not installed"
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    heavy = [each for name, each in results["heavy_jobs"].items() if name.endswith(" nodes")]
    left.plot(
        [each["nodes"] for each in heavy], [each["running"] for each in heavy], marker="o", label="busy"
    )
    left.plot([each["nodes"] for each in heavy], [each["nodes"] for each in heavy], "--", label="all")
    left.set(xlabel="nodes", ylabel="nodes with a job", title="one dispatcher, jobs of 30 minutes")
    left.legend()
    rates = [(name, each) for name, each in results["requests"].items() if "layout" in each]
    for station in STATIONS:
        right.plot(
            [name for name, _ in rates], [each[station] for _, each in rates], marker="o", label=station
        )
    right.set(ylabel="share of its time", title="layouts that carry each rate", ylim=(0, 1))
    right.legend()
    figure.tight_layout()
    figure.savefig(target.with_suffix(".png"), dpi=120)
    return f" and {target.with_suffix('.png').name}"
