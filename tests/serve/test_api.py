"""The control plane's HTTP, on a real Postgres and without Ray: errors, lists, the status."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from tests.registry.making import World, claim_one, job_of, make_pipeline, step, succeed
from tests.serve.api_lab import API, NOBODY, admin, count, error_of, stranger

from raymill.client import status_types, types
from raymill.registry.tables import Account

__all__ = ["admin", "stranger"]  # fixtures


def test_errors_have_one_shape_and_name_the_cure(admin: TestClient, world: World) -> None:
    assert "`raymill jobs list`" in error_of(admin.get(f"{API}/jobs/{NOBODY}"))["message"]
    missing = admin.get(f"{API}/llms/nobody")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    elsewhere = admin.get(f"{API}/nowhere")
    assert (elsewhere.status_code, error_of(elsewhere)["type"]) == (404, "invalid_request_error")
    assert admin.put(f"{API}/jobs").status_code == 405
    taken = admin.post(f"{API}/accounts", json={"name": "admin"})
    assert (taken.status_code, error_of(taken)["code"]) == (409, "conflict")
    wrong = admin.post(f"{API}/accounts", json={"name": "Ada!", "role": "king"})
    assert (wrong.status_code, error_of(wrong)["param"]) == (422, "name")
    assert count(world, Account) == 1


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"x"', b"\xff\xfe", b"NaN"])
def test_a_body_that_is_no_object_is_refused(admin: TestClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = admin.post(f"{API}/pipelines", content=body, headers=headers)
    assert response.status_code in {400, 422}
    error_of(response)


def test_malformed_json_is_called_that(admin: TestClient) -> None:
    headers = {"content-type": "application/json"}
    response = admin.post(f"{API}/pipelines", content=b'{"recipe": ', headers=headers)
    assert response.status_code == 422
    assert error_of(response)["message"].startswith("the body is no JSON (")


@pytest.mark.parametrize(
    "path",
    [
        "/pipelines?name=%00",
        "/llms/%00",
        "/jobs?state=asleep",
        "/jobs?limit=0",
        "/jobs?limit=501",
        "/jobs/none",
        "/llms/x/versions/one",
        f"/jobs/{NOBODY}/logs?after=99999999999999999999",
        f"/jobs/{NOBODY}/logs?attempt=0",
        *(
            f"/{what}?cursor={cursor}"
            for what in ("jobs", "audit")
            for cursor in ("x", "NQ", "W10", "é", "a" * 300)
        ),
    ],
)
def test_values_that_make_no_sense_are_the_callers_fault(admin: TestClient, path: str) -> None:
    response = admin.get(f"{API}{path}")
    if path != "/audit?cursor=NQ":  # which is the number 5
        assert response.status_code == 422, response.text
        error_of(response)


def test_a_database_error_tells_nobody_what_the_database_said(admin: TestClient, world: World) -> None:
    with world.database.transaction() as session:
        session.execute(text("ALTER TABLE dataset RENAME TO secret_name"))
    response = admin.get(f"{API}/datasets")
    assert response.status_code == 500
    assert "secret_name" not in response.text
    assert error_of(response)["type"] == "server_error"


def test_a_request_id_is_given_back_unless_it_could_do_harm(admin: TestClient) -> None:
    assert admin.get(f"{API}/jobs", headers={"x-request-id": "r-1"}).headers["x-request-id"] == "r-1"
    given = admin.get(f"{API}/jobs", headers={"x-request-id": "r 1<script>"}).headers["x-request-id"]
    assert len(given) == 32


def test_pages_show_every_row_once_newest_first_while_rows_are_added(admin: TestClient, world: World) -> None:
    made = [str(make_pipeline(world.database).id) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        found = types.Page[types.Pipeline].model_validate(
            admin.get(f"{API}/pipelines", params=params).raise_for_status().json()
        )
        seen += [str(each.id) for each in found.data]
        make_pipeline(world.database)
        cursor = found.next_cursor
        if cursor is None:
            break
    assert seen == made[::-1]


def test_lists_can_be_narrowed(admin: TestClient, world: World) -> None:
    first = make_pipeline(world.database, step("a"), step("b", "a"), name="one")
    make_pipeline(world.database, name="two")
    succeed(world.database, claim_one(world.database))
    assert [each["name"] for each in admin.get(f"{API}/pipelines?name=one").json()["data"]] == ["one"]
    assert [each["step"] for each in admin.get(f"{API}/jobs?state=succeeded").json()["data"]] == ["a"]
    of_first = admin.get(f"{API}/jobs?pipeline_id={first.id}").json()["data"]
    assert [each["step"] for each in of_first] == ["b", "a"]


def test_the_status_counts_jobs(admin: TestClient, world: World) -> None:
    pipeline = make_pipeline(world.database, step("a"), step("b", "a"))
    claim_one(world.database)
    found = status_types.Status.model_validate(admin.get(f"{API}/status").json())
    assert found.jobs == {"queued": 1, "running": 1}
    assert found.database.startswith("18")
    assert job_of(world.database, pipeline, "b").attempt == 0
