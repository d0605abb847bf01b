"""The calls of `/api/v1/evaluations` as data, for both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import evaluation_types as types
from raymill.client.endpoints import Call, Listing, at
from raymill.client.types import ImageFormat, Pipeline
from raymill.evaluate.judge_config import Judgement
from raymill.evaluate.target_config import TargetEvaluation


def run(body: TargetEvaluation) -> Call[Pipeline]:
    return Call(method="POST", path=at("evaluations"), body=body, returns=Pipeline)


def judge(body: Judgement) -> Call[Pipeline]:
    return Call(method="POST", path=at("evaluations", "judge"), body=body, returns=Pipeline)


def compare(a: str, b: str, task: str | None) -> Call[types.VersionComparison]:
    query = {"a": a, "b": b, "task": task}
    return Call(path=at("evaluations", "compare"), query=query, returns=types.VersionComparison)


def changed(a: str, b: str, task: str | None, better: types.Side) -> Listing[types.ChangedSample]:
    query = {"a": a, "b": b, "task": task, "better": better}
    return Listing(path=at("evaluations", "compare", "changed"), item=types.ChangedSample, query=query)


def leaderboard(task: str | None, model: str | None, limit: int | None) -> Call[types.Leaderboard]:
    query = {"task": task, "model": model, "limit": limit}
    return Call(path=at("evaluations", "leaderboard"), query=query, returns=types.Leaderboard)


def plot_path(of: str) -> str:
    return at("evaluations", of, "plot")


def plot_query(image: ImageFormat, **query: str | int | None) -> dict[str, str]:
    return {"format": image, **{name: str(value) for name, value in query.items() if value is not None}}
