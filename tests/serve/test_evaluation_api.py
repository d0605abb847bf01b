"""Comparisons and leaderboards over HTTP, as JSON and as pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select
from tests.registry.making import HELDOUT, World, parquet, sample

from raymill.registry.tables import Evaluation, Role
from raymill.serve.api.interval_chart import Bar, draw_bars

API = "/api/v1/evaluations"
LLM = "support-triage"
GOOD, POOR = [True] * 40, [True] * 25 + [False] * 15


@pytest.fixture
def client(app: FastAPI, world: World) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as connected:
        connected.headers["authorization"] = f"Bearer {world.add_key(Role.VIEWER)}"
        yield connected


def words(svg: str) -> set[str]:
    drawn = ElementTree.fromstring(svg)
    return {each.text or "" for each in drawn.iter("{http://www.w3.org/2000/svg}text")}


def test_a_version_is_compared_with_the_one_in_production(client: TestClient, world: World) -> None:
    world.make_version(right=POOR)
    world.make_version(right=GOOD, first=4)
    world.promote(1)
    assert client.get(f"{API}/compare", params={"a": f"{LLM}@2", "b": f"{LLM}@production"}).status_code == 404
    assert world.promote(2).allowed
    query = {"a": f"{LLM}@production", "b": f"{LLM}@1"}
    found = client.get(f"{API}/compare", params=query).json()
    assert (found["a"], found["b"], found["alpha"]) == (f"{LLM}@2", f"{LLM}@1", 0.05)
    (task,) = found["tasks"]
    assert (task["task"], task["verdict"], task["test"]) == (HELDOUT, "better", "mcnemar")
    assert (task["examples"], task["wins"], task["losses"]) == (36, 15, 0)
    assert (task["only_a"], task["only_b"], task["asked_differently"]) == (4, 4, 0)
    assert task["difference"] == pytest.approx(15 / 36)
    assert 0 < task["low"] < task["difference"] < task["high"]
    assert task["p_value"] == pytest.approx(2 / 2**15)
    assert client.get(f"{API}/compare", params={**query, "task": HELDOUT}).json() == found
    svg = client.get(f"{API}/compare/plot", params={**query, "format": "svg"})
    assert svg.headers["content-type"].startswith("image/svg+xml")
    assert {f"{LLM}@2 minus {LLM}@1", f"{HELDOUT}: better", "0.4167", "0"} <= words(svg.text)


def test_the_examples_that_changed_come_by_page_with_both_answers(client: TestClient, world: World) -> None:
    world.make_version(right=[True, True, False, False, True])
    world.make_version(right=[True, False, True, False, False, True], first=0)
    query: dict[str, Any] = {"a": f"{LLM}@1", "b": f"{LLM}@2", "limit": 2}

    def read(**more: object) -> dict[str, Any]:
        answer = client.get(f"{API}/compare/changed", params=query | more)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        return page

    first = read()
    assert [each["index"] for each in first["data"]] == [1, 2]
    assert first["data"][0] == {
        "place": 1,
        "index": 1,
        "better": "a",
        "prompt": "p1",
        "prompt_b": None,
        "reference": "r",
        "a": {"score": 1.0, "answer": "r", "answers": 1, "reason": None},
        "b": {"score": 0.0, "answer": "wrong 1", "answers": 1, "reason": None},
    }
    second = read(cursor=first["next_cursor"])
    assert ([each["index"] for each in second["data"]], second["next_cursor"]) == ([4], None)
    assert [each["index"] for each in read(better="a")["data"]] == [1, 4]
    assert [each["index"] for each in read(better="b")["data"]] == [2]
    assert read(better="neither")["data"] == []
    task = client.get(f"{API}/compare", params={"a": query["a"], "b": query["b"]}).json()["tasks"][0]
    assert (task["wins"], task["losses"]) == (2, 1)
    world.make_version(right=[True] * 5)
    for wrong, reason in (
        ({"cursor": "x"}, "is none of ours"),
        ({"cursor": first["next_cursor"], "b": f"{LLM}@3"}, "was measured anew"),
        ({"better": "c"}, "better: "),
        ({"limit": 101}, "limit: "),
    ):
        refused = client.get(f"{API}/compare/changed", params={**query, **wrong})
        assert (refused.status_code, reason in refused.json()["error"]["message"]) == (422, True), wrong


def test_the_leaderboard_has_the_best_first_and_says_what_it_does_not_know(
    client: TestClient, world: World
) -> None:
    assert client.get(f"{API}/leaderboard").json() == {"standings": []}
    world.make_version(right=POOR, quantized=POOR)
    world.make_version(right=GOOD)
    world.promote(2)
    found = client.get(f"{API}/leaderboard", params={"model": LLM}).json()["standings"]
    assert [each["version"] for each in found[:2]] == [f"{LLM}@2", f"{LLM}@2:Q8_0"]
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    by = {each["version"]: each for each in found}
    assert by[f"{LLM}@2"]["aliases"] == ["production"]
    assert by[f"{LLM}@2"]["low"] < 1.0 == by[f"{LLM}@2"]["high"]
    assert by[f"{LLM}@1:Q8_0"]["standard_error"] == pytest.approx(0.0775, abs=1e-4)
    unknown = by[f"{LLM}@2:Q8_0"]
    assert (unknown["low"], unknown["standard_error"]) == (None, None)
    assert f"the evaluation of {LLM}@2:Q8_0 kept no samples" in unknown["note"]
    assert client.get(f"{API}/leaderboard", params={"task": "mmlu"}).json() == {"standings": []}
    assert len(client.get(f"{API}/leaderboard", params={"limit": 1}).json()["standings"]) == 1
    png = client.get(f"{API}/leaderboard/plot", params={"task": HELDOUT})
    assert png.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(png.content)).size == (960, 40 + 4 * 26 + 44)
    svg = client.get(f"{API}/leaderboard/plot", params={"format": "svg"}).text
    assert {HELDOUT, f"{LLM}@2 [production]", "0.625"} <= words(svg)
    nothing = client.get(f"{API}/leaderboard/plot", params={"format": "svg", "task": "mmlu"}).text
    assert words(nothing) == {"nothing was measured yet"}


def test_what_cannot_be_compared_is_refused_with_the_cure(client: TestClient, world: World) -> None:
    world.make_version(right=GOOD)
    world.make_version(right=GOOD, first=1000)
    one, two = f"{LLM}@1", f"{LLM}@2"
    for query, status, reason in (
        ({"a": "support", "b": one}, 422, "write it as support@3"),
        ({"a": one, "b": f"{LLM}@7"}, 404, "its newest version is 2"),
        ({"a": one, "b": two}, 422, f"none of the 40 examples of {one} is among the 40 of {two}"),
        ({"a": one, "b": one, "task": "mmlu"}, 404, "evaluate both on mmlu"),
        ({"a": one, "b": f"{LLM}@1:Q8_0"}, 404, "kept no samples"),
        ({"a": one}, 422, "b: "),
    ):
        answer = client.get(f"{API}/compare", params=query)
        assert answer.status_code == status
        assert reason in answer.json()["error"]["message"]


def test_changed_samples_are_no_evidence_of_anything(client: TestClient, world: World) -> None:
    world.make_version(right=POOR)
    (file,) = world.store.root.rglob("*.parquet")
    file.write_bytes(parquet([{"variant": "train", **sample(number, 1.0)} for number in range(40)]))
    answer = client.get(f"{API}/compare", params={"a": f"{LLM}@1", "b": f"{LLM}@1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "tampered")
    notes = [each["note"] for each in client.get(f"{API}/leaderboard").json()["standings"]]
    assert any("is not what was registered" in note for note in notes)


def test_a_score_that_is_no_mean_of_its_examples_has_no_interval(client: TestClient, world: World) -> None:
    world.make_version(right=POOR)
    with world.database.transaction() as session:
        for row in session.scalars(select(Evaluation)):
            row.score = 0.9
    weights = {each["version"]: each for each in client.get(f"{API}/leaderboard").json()["standings"]}[
        f"{LLM}@1"
    ]
    assert (weights["low"], weights["note"]) == (None, f"{HELDOUT} is not the mean of its examples' scores")


def test_every_bar_lies_on_its_axis() -> None:
    bars = [
        Bar(name="x" * 60, value=-0.1, low=-0.3, high=0.05),
        Bar(name="b", value=0.0, low=None, high=None),
    ]
    svg = draw_bars({"one": bars, "none": []}, "svg", zero=True).decode()
    drawn = ElementTree.fromstring(svg)
    for line in drawn.iter("{http://www.w3.org/2000/svg}polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 300 <= x <= 870
            assert 0 <= y <= float(drawn.attrib["height"])
    assert f"{'x' * 39}..." in words(svg)
