"""The calls of `/api/v1/runs` as data, for both clients. Sends nothing."""

from __future__ import annotations

from collections.abc import Sequence

from raymill.client import run_types, types
from raymill.client.endpoints import Call, Id, Listing, at


def runs(state: types.State | None, name: str | None) -> Listing[run_types.Run]:
    return Listing(path=at("runs"), item=run_types.Run, query={"state": state, "name": name})


def run(run_id: Id) -> Call[run_types.RunDetail]:
    return Call(path=at("runs", run_id), returns=run_types.RunDetail)


def points(run_id: Id) -> Call[run_types.RunPoints]:
    return Call(path=at("runs", run_id, "points"), returns=run_types.RunPoints)


def compare(ids: Sequence[Id]) -> Call[run_types.RunComparison]:
    query = {"ids": ",".join(map(str, ids))}
    return Call(path=at("runs", "compare"), query=query, returns=run_types.RunComparison)


def export(run_id: Id, body: run_types.RunExportRequest) -> Call[run_types.RunExport]:
    return Call(method="POST", path=at("runs", run_id, "exports"), body=body, returns=run_types.RunExport)


def plot_path(run_id: Id) -> str:
    return at("runs", run_id, "plot")


def plot_query(others: Sequence[Id], metrics: Sequence[str], image: str) -> dict[str, str]:
    return {"with": ",".join(map(str, others)), "metric": ",".join(metrics), "format": image}


def card_path(run_id: Id) -> str:
    return at("runs", run_id, "card")


def file_path(run_id: Id) -> str:
    return at("runs", run_id, "file")


def file_query(form: str, kind: str | None, path: str) -> dict[str, str]:
    return {"form": form, "path": path, **({"type": kind} if kind else {})}
