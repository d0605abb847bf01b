"""What the web console is given: its files, a session in a cookie, what its user may call, and what has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.registry.making import ADA, World, claim_one, make_pipeline, step, succeed
from tests.serve.control_lab import error_of

from raymill.registry import identity, jobs, passwords
from raymill.registry.jobs import ErrorClass
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import Role
from raymill.serve.api import news
from raymill.serve.api.bell import Bell
from raymill.serve.console.site import Site

API = "/api/v1"
PASSWORD = "correct horse battery"
HEADER = {"x-raymill-console": "1"}


@pytest.fixture
def browser(app: FastAPI, world: World) -> Iterator[TestClient]:
    """Nobody yet, with a jar for cookies; `bob`, an operator, has a password."""
    SecretBox(world.home / "keys" / "secrets").create_if_missing()
    with world.database.transaction() as session:
        bob = identity.create_account(session, "bob", Role.OPERATOR, ADA)
        passwords.set_password(session, bob, PASSWORD, ADA)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def sign_in(browser: TestClient) -> str:
    """Returns the cookie's value."""
    body = {"account": "bob", "password": PASSWORD}
    answer = browser.post(f"{API}/browser/session", json=body, headers=HEADER)
    assert answer.status_code == 201, answer.text
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "access_token" not in answer.text
    return cookie.partition("=")[2].partition(";")[0]


def test_the_cookie_opens_what_the_role_may_and_ends_with_the_session(browser: TestClient) -> None:
    assert browser.get(f"{API}/access").status_code == 401
    token = sign_in(browser)
    told = browser.get(f"{API}/access").json()
    assert (told["account"], told["role"]) == ("bob", "operator")
    assert "POST /api/v1/jobs" in told["allowed"]
    assert "POST /code/v1/submissions" in told["allowed"]
    assert "POST /api/v1/accounts" not in told["allowed"]
    assert browser.get(f"{API}/accounts").status_code == 403
    as_bearer = {"authorization": f"Bearer {token}"}
    assert browser.get(f"{API}/access", headers=as_bearer).status_code == 401
    assert browser.delete(f"{API}/browser/session", headers=HEADER).status_code == 200
    browser.cookies.set("raymill_session", token)
    assert browser.get(f"{API}/access").status_code == 401


def test_with_the_cookie_alone_nothing_changes(browser: TestClient) -> None:
    """A page of another origin could send the cookie, was it not for SameSite, but never our header."""
    sign_in(browser)
    denied = browser.post(f"{API}/jobs", json={"kind": "greet"})
    assert error_of(denied)[:2] == (403, "denied")
    assert "x-raymill-console" in denied.text
    assert browser.post(f"{API}/jobs", json={"kind": "no"}, headers=HEADER).status_code == 422
    body = {"account": "bob", "password": PASSWORD}
    assert browser.post(f"{API}/browser/session", json=body).status_code == 403
    access = browser.post(f"{API}/sessions", json=body).json()["access_token"]
    browser.cookies.clear()
    browser.cookies.set("raymill_session", access)  # an access token is no cookie
    assert browser.get(f"{API}/access").status_code == 401


def test_a_session_has_one_key_for_models_at_a_time(browser: TestClient, world: World) -> None:
    sign_in(browser)
    first, second = (browser.post(f"{API}/browser/key", headers=HEADER).json()["key"] for _ in range(2))
    with world.database.transaction() as session:
        assert identity.authenticate(session, first) is None
        live = identity.authenticate(session, second)
        assert live is not None
        assert (live.scopes, live.account.name) == (["gateway"], "bob")


def test_what_changes_is_told_within_a_second_and_after_a_gap(world: World) -> None:
    async def still_in() -> bool:
        return True

    async def heard(frames: AsyncGenerator[str, None], count: int) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        async with asyncio.timeout(5):
            while len(found) < count:
                frame = await anext(frames)
                if "event: change" in frame:
                    found.append(json.loads(frame.partition("data: ")[2]))
        return found

    async def follow() -> None:
        told = news.News(world.database, Bell(world.database.url))
        frames = told.stream(None, still_in)
        begin = await anext(frames)
        since = begin.partition("id: ")[2].partition("\n")[0]
        await asyncio.sleep(0.3)
        pipeline = await asyncio.to_thread(make_pipeline, world.database)
        loop = asyncio.get_running_loop()
        at = loop.time()
        (change,) = await heard(frames, 1)
        assert loop.time() - at < 1.0
        assert change["topic"] == "pipeline"
        job = await asyncio.to_thread(claim_one, world.database)
        at = loop.time()
        (change,) = await heard(frames, 1)
        assert loop.time() - at < 1.0
        told_of = (change["topic"], change["key"], change["pipeline_id"], change["kinds"])
        assert told_of == ("job", str(job.id), str(pipeline.id), ["state"])
        await frames.aclose()
        await asyncio.to_thread(succeed, world.database, job)
        again = told.stream(news.cursor_of(since), still_in)
        kinds = {str(change["topic"]) for change in await heard(again, 2)}
        assert kinds == {"job", "pipeline"}
        await again.aclose()

    asyncio.run(follow())


def test_the_files_are_cached_for_ever_and_the_document_is_not(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "index-abc.js").write_text("1")
    (tmp_path / "index.html").write_text('<base href="/console/" />')
    (tmp_path.parent / "secret.txt").write_text("no")
    site = FastAPI()
    site.mount("/console", Site(tmp_path))
    client = TestClient(site)
    script = client.get("/console/assets/index-abc.js")
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    page = client.get("/console/runs/7?tab=log")
    assert (page.text, page.headers["cache-control"]) == ('<base href="/console/" />', "no-cache")
    assert (
        "default-src 'none'; script-src 'self'; style-src 'self'" in page.headers["content-security-policy"]
    )
    behind = client.get("/console/jobs", headers={"x-forwarded-prefix": "/a/b"})
    assert behind.text == '<base href="/a/b/console/" />'
    wicked = client.get("/console/jobs", headers={"x-forwarded-prefix": '/"><script>'})
    assert wicked.text == '<base href="/console/" />'
    assert client.get("/console/assets/gone.js").status_code == 404
    assert client.get("/console/..%2fsecret.txt").text == '<base href="/console/" />'
    assert client.post("/console/").status_code == 405


def test_without_a_build_one_page_says_how_to_make_it(tmp_path: Path) -> None:
    site = FastAPI()
    site.mount("/console", Site(tmp_path))
    page = TestClient(site).get("/console/")
    assert (page.status_code, "make console" in page.text) == (200, True)


def test_a_recipe_is_checked_and_estimated_without_being_written(
    browser: TestClient, world: World, tmp_path: Path
) -> None:
    sign_in(browser)
    corpus, train = tmp_path / "corpus.txt", tmp_path / "train.jsonl"
    corpus.write_text("one\n\ntwo")
    train.write_text('{"messages": []}\n' * 40)
    recipe = {
        "model": "support-triage",
        "base": {"pretrain": {"text": str(corpus), "steps": 100}},
        "dataset": {"train": str(train)},
        "train": {"epochs": 2, "batch": 16, "lora": {"r": 16}},
    }
    answer = browser.post(f"{API}/pipelines/plan", json={"recipe": recipe}, headers=HEADER)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [step["step"] for step in told["steps"]] == ["dataset", "base", "train"]
    assert told["recipe"]["train"]["learning_rate"] == 2e-4
    estimate = told["estimate"]
    # 2048 x 256 embeddings; 4 layers of 2 x 256 x 256, 2 x 256 x 128 and 3 x 256 x 768 weights, and norms.
    assert estimate["parameters"] == 2048 * 256 + 4 * (131_072 + 65_536 + 589_824 + 512) + 256
    assert estimate["trained_parameters"] == 16 * 4 * (2 * 512 + 2 * 384 + 3 * 1024)
    assert (estimate["rows"], estimate["steps"]) == (40, 6 + 100)
    assert 16 * estimate["parameters"] < estimate["memory_bytes"] < 4 << 30
    assert estimate["seconds"] is None
    world.make_version("support-triage")  # its runs took 2 s for 4 steps
    again = browser.post(f"{API}/pipelines/plan", json={"recipe": recipe}, headers=HEADER).json()
    assert again["estimate"]["seconds"] == 53.0
    wrong = {**recipe, "train": {"epochs": 0}}
    refused = browser.post(f"{API}/pipelines/plan", json={"recipe": wrong}, headers=HEADER)
    assert error_of(refused) == (422, "invalid", "train.epochs")
    assert len(browser.get(f"{API}/pipelines").json()["data"]) == 1


def test_the_overview_tells_what_waits_for_what_and_what_needs_somebody(
    browser: TestClient, world: World
) -> None:
    sign_in(browser)
    answer = browser.get(f"{API}/overview")
    assert answer.status_code == 200, answer.text
    empty = answer.json()
    assert (empty["running"], empty["waiting"], empty["needs"], empty["served"]) == ([], [], [], [])
    assert empty["today"]["requests"] == 0
    make_pipeline(world.database, step("first"), step("second", "first"), name="triage")
    with world.database.transaction() as session:
        jobs.pause_queue(session, "short", ADA)
    told = browser.get(f"{API}/overview").json()
    why = {each["step"]: each["waiting"] for each in told["waiting"]}
    assert why["first"].startswith("queue short is paused")
    assert why["second"] == "these steps come first: first"
    with world.database.transaction() as session:
        jobs.resume_queue(session, "short", ADA)
    told = browser.get(f"{API}/overview").json()
    why = {each["step"]: each["waiting"] for each in told["waiting"]}
    assert why["first"] == "it is next, once a worker is free"
    claimed = claim_one(world.database)
    with world.database.transaction() as session:
        jobs.fail(session, claimed.id, claimed.epoch, "no such file", ErrorClass.INPUT)
    (need,) = browser.get(f"{API}/overview").json()["needs"]
    assert (need["kind"], need["name"], need["id"]) == ("failed", "triage first", str(claimed.id))
    assert "no such file" in need["text"]
