"""Training runs over HTTP: lists, curves as pictures, comparison, cards, and what is taken away."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select
from tests.registry.making import STEPS, World, job_of, make_pipeline

from raymill.registry import jobs
from raymill.registry.tables import Artifact, Job, JobState, LlmVersion, Role, TrainingRun

API = "/api/v1/runs"
SERIES = [
    {"step": step, "loss": 4.0 / step, "lr": 0.001, "grad_norm": 1.0, "tokens_per_s": 100.0}
    for step in range(1, 5)
] + [{"step": 4, "validation_loss": 1.5}]


@pytest.fixture
def client(app: FastAPI, world: World) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as connected:
        connected.headers["authorization"] = f"Bearer {world.add_key(Role.OPERATOR)}"
        yield connected


def finished_run(world: World, **config: Any) -> str:
    """A run that made a version; its curves and settings are given."""
    world.make_version()
    with world.database.transaction() as session:
        newest = session.scalars(select(LlmVersion).order_by(LlmVersion.number.desc())).first()
        assert newest is not None
        job = session.get_one(Job, newest.job_id)
        job.config = {"method": "sft", "lora": {"r": 4}, "epochs": 3, **config}
        row = session.get_one(TrainingRun, job.id)
        row.series, row.metrics = SERIES, {"first_loss": 4.0, "best_validation_loss": 1.5}
        return str(job.id)


def running_run(world: World) -> str:
    """A run in the middle of its steps, one of which was done twice."""
    pipeline = make_pipeline(world.database, *STEPS)
    job = job_of(world.database, pipeline, "train")
    with world.database.transaction() as session:
        row = session.get_one(Job, job.id)
        for step, loss in ((1, 3.0), (2, 2.5), (2, 2.5), (3, 2.0)):
            data = {"step": step, "total": 10, "loss": loss, "lr": 0.1, "tokens_per_s": 50.0, "eta_s": 1.0}
            jobs.add_events(session, row, [("step", data)])
        jobs.add_events(session, row, [("validation", {"step": 2, "loss": 2.7})])
    return str(job.id)


def test_runs_are_listed_with_how_far_they_are(client: TestClient, world: World) -> None:
    done, going = finished_run(world), running_run(world)
    found = {run["id"]: run for run in client.get(API).json()["data"]}
    assert found[done]["version"] == 1
    assert (found[done]["step"], found[done]["steps"]) == (4, 4)
    assert found[done]["metrics"]["first_loss"] == 4.0
    assert found[done]["metrics"]["final_loss"] == 0.5
    assert (found[going]["step"], found[going]["steps"]) == (3, 10)
    assert found[going]["metrics"] == {"loss": 2.0, "tokens_per_s": 50.0}
    one = client.get(f"{API}/{done}").json()
    assert one["config"]["lora"] == {"r": 4}
    assert one["base"]["artifact"].startswith("base/")
    assert one["dataset"]["artifact"].startswith("dataset/")
    assert client.get(API, params={"name": "nobody"}).json()["data"] == []


def test_a_job_that_trains_nothing_is_no_run(client: TestClient, world: World) -> None:
    world.make_version()
    with world.database.transaction() as session:
        other = session.scalars(select(Job.id).where(Job.kind == "dataset")).one()
    assert client.get(f"{API}/{other}").status_code == 404
    assert client.get(f"{API}/{uuid.uuid4()}/points").status_code == 404


def test_curves_of_a_run_that_goes_on_have_each_step_once(client: TestClient, world: World) -> None:
    points = client.get(f"{API}/{running_run(world)}/points").json()["points"]
    assert [(point["step"], point.get("loss"), point.get("validation_loss")) for point in points] == [
        (1, 3.0, None),
        (2, 2.5, None),
        (2, None, 2.7),
        (3, 2.0, None),
    ]
    assert "eta_s" not in points[0]


def test_curves_come_as_pictures(client: TestClient, world: World) -> None:
    done, going = finished_run(world), running_run(world)
    query = {"with": going, "metric": "loss,lr,grad_norm"}
    svg = client.get(f"{API}/{done}/plot", params={**query, "format": "svg"})
    assert svg.headers["content-type"].startswith("image/svg+xml")
    drawn = ElementTree.fromstring(svg.text)
    words = [each.text or "" for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"loss", "lr", "grad norm"} <= set(words)
    assert any(word.endswith(done[-6:]) for word in words)
    assert any(word.endswith(going[-6:]) for word in words)
    png = client.get(f"{API}/{done}/plot", params=query)
    assert png.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(png.content))
    assert image.size == (960, 936)
    assert len(image.getcolors(1 << 20) or []) > 10
    assert client.get(f"{API}/{done}/plot", params={"format": "gif"}).status_code == 422
    assert client.get(f"{API}/{done}/plot", params={"metric": "../x"}).status_code == 422
    assert client.get(f"{API}/{done}/plot", params={"with": "x"}).status_code == 422


def test_a_comparison_shows_what_differs(client: TestClient, world: World) -> None:
    one, two = finished_run(world), finished_run(world, epochs=5, lora=None)
    found = client.get(f"{API}/compare", params={"ids": f"{one},{two}"}).json()
    differ = found["config"]
    assert differ["epochs"] == [3, 5]
    assert differ["lora.r"] == [4, None]
    assert "method" not in differ
    assert found["metrics"]["final_loss"] == [0.5, 0.5]
    assert [len(curve) for curve in found["curves"]] == [5, 5]
    assert client.get(f"{API}/compare", params={"ids": one}).status_code == 422


def test_a_card_tells_the_chain_from_the_data_to_the_model(client: TestClient, world: World) -> None:
    run_id = finished_run(world)
    card = client.get(f"{API}/{run_id}/card")
    assert card.headers["content-type"].startswith("text/markdown")
    with world.database.transaction() as session:
        version = session.scalars(select(LlmVersion)).one()
        names = (version.artifact_name, version.base_artifact_name)
        digests = [session.get_one(Artifact, name).digest for name in names]
    for wanted in (*digests, "lora.r", "license:", "version 1 of support-triage", "validation loss"):
        assert wanted in card.text
    going = client.get(f"{API}/{running_run(world)}/card")
    assert going.status_code == 422
    assert "wait for its end" in going.json()["error"]["message"]


def test_an_export_lists_files_and_gives_their_bytes(client: TestClient, world: World) -> None:
    run_id = finished_run(world)
    made = client.post(f"{API}/{run_id}/exports", json={"form": "hf"}).json()
    assert {file["path"] for file in made["files"]} == {"model.safetensors", "config.json"}
    for file in made["files"]:
        got = client.get(f"{API}/{run_id}/file", params={"form": "hf", "path": file["path"]})
        assert hashlib.sha256(got.content).hexdigest() == file["sha256"]
    for path in ("../config.json", "/etc/passwd", "nothing", ""):
        refused = client.get(f"{API}/{run_id}/file", params={"form": "hf", "path": path})
        assert refused.status_code == 404
    assert client.post(f"{API}/{run_id}/exports", json={"form": "adapter"}).status_code == 422
    assert client.post(f"{API}/{run_id}/exports", json={"form": "zip"}).status_code == 422


def test_a_gguf_file_that_was_made_is_given_and_another_is_asked_for_once(
    client: TestClient, world: World
) -> None:
    run_id = finished_run(world)
    there = client.post(f"{API}/{run_id}/exports", json={"form": "gguf", "type": "Q8_0"}).json()
    assert [file["path"] for file in there["files"]] == ["model-Q8_0.gguf"]
    assert there["job_id"] is None
    asked = [
        client.post(f"{API}/{run_id}/exports", json={"form": "gguf", "type": "F16"}).json() for _ in "ab"
    ]
    assert asked[0]["files"] == []
    assert asked[0]["job_id"] == asked[1]["job_id"]
    with world.database.transaction() as session:
        job = session.get_one(Job, uuid.UUID(asked[0]["job_id"]))
        assert (job.kind, job.state, job.config["types"]) == ("export_gguf", JobState.QUEUED, ["F16"])
    wrong = client.post(f"{API}/{run_id}/exports", json={"form": "gguf", "type": "Q3"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "type")


def test_an_adapter_alone_is_a_job_of_its_own(client: TestClient, world: World) -> None:
    run_id = finished_run(world)
    whole = client.post(f"{API}/{run_id}/exports", json={"form": "gguf-adapter"})
    assert (whole.status_code, "has no adapter" in whole.text) == (422, True)
    with world.database.transaction() as session:
        job = session.get_one(Job, uuid.UUID(run_id))
        job.result = {**(job.result or {}), "adapter": (job.result or {})["artifact"]}
    asked = client.post(f"{API}/{run_id}/exports", json={"form": "gguf-adapter", "type": "Q8_0"}).json()
    with world.database.transaction() as session:
        job = session.get_one(Job, uuid.UUID(asked["job_id"]))
        assert (job.kind, job.config["type"], job.config["base"][:5]) == ("export_adapter", "Q8_0", "base/")
    wrong = client.post(f"{API}/{run_id}/exports", json={"form": "gguf-adapter", "type": "Q4_K_M"})
    assert (wrong.status_code, "use any of F32, F16, BF16, Q8_0" in wrong.text) == (422, True)
