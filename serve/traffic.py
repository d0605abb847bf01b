"""The job that reads kept requests of a route and writes them as rows; the data set job goes on from there.

It lies in this room because the gateway's translators do. What was kept is masked already; corrections, which
people wrote, are masked here.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from raymill.client.dataset_types import TrafficRequest
from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.policies.errors import Invalid
from raymill.registry.traffic import Kept, kept_requests
from raymill.serve.traffic_rows import conversations, exchanges, preferences

ROWS_FILE = "rows.jsonl"


def run_traffic(context: JobContext) -> Outcome:
    """Write the rows that were asked for.

    Raises:
        Invalid: there are none.
    """
    asked = TrafficRequest.model_validate(context.config["traffic"])
    assert asked.until is not None, "it is set when the job is submitted"
    left_out: Counter[str] = Counter()
    staging = context.work_dir / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    rows, requests = _write(context, asked, asked.until, staging / ROWS_FILE, left_out)
    if not rows:
        raise Invalid(_why_none(asked, requests, left_out), param="route")
    published = context.publish("traffic", staging)
    provenance: JsonObject = {
        "route": asked.route,
        "since": asked.since.isoformat(),
        "until": asked.until.isoformat(),
        "rows_as": asked.rows_as,
        "min_score": asked.min_score,
        "feedback": asked.feedback,
        "requests": requests,
        "rows": rows,
        "left_out": dict(left_out.most_common()),
    }
    result: JsonObject = {"digest": published.digest, "artifact": published.name, "rows_file": ROWS_FILE}
    return Outcome(
        result={**result, "rows": rows, "requests": requests, "provenance": provenance},
        artifacts=(published,),
    )


def _write(
    context: JobContext, asked: TrafficRequest, until: dt.datetime, path: Path, left_out: Counter[str]
) -> tuple[int, int]:
    """Returns how many rows, and of how many requests."""
    requests = rows = 0
    with context.database.transaction() as session, path.open("w", encoding="utf-8") as file:

        def counted() -> Iterator[Kept]:
            nonlocal requests
            for one in kept_requests(session, route=asked.route, since=asked.since, until=until):
                requests += 1
                if requests % 500 == 0:
                    context.check()
                yield one

        found = exchanges(counted(), left_out)
        made = (
            preferences(found, min_score=asked.min_score)
            if asked.rows_as == "preferences"
            else conversations(found, min_score=asked.min_score, feedback=asked.feedback)
        )
        for row in made:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            rows += 1
    return rows, requests


def _why_none(asked: TrafficRequest, requests: int, left_out: Counter[str]) -> str:
    span = f"since {asked.since:%Y-%m-%d %H:%M}"
    if not requests:
        return f"no answered request of {asked.route} is kept {span}: set keep_traces on the route, or ask for an earlier time"
    reasons = "; ".join(f"{count}: {why}" for why, count in left_out.most_common(3))
    cure = (
        "pairs need corrections, or two scored answers to one prompt"
        if asked.rows_as == "preferences"
        else ("lower min_score, or ask for feedback: any")
    )
    return f"{requests} requests of {asked.route} are kept {span}, none makes a row{f' ({reasons})' if reasons else ''}: {cure}"
