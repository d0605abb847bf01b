"""The work of hooks: deliveries to a real receiver on the loopback interface, promotions and roll backs of real files."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.registry.making import ADA, World, claim, claim_one, make_pipeline, read_job, step, succeed

from raymill.cluster import hooks as work
from raymill.cluster.attempt import Attempt
from raymill.cluster.kinds import KINDS
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, Unavailable
from raymill.registry import aliases, canaries, deployments, hooks, jobs, promotion, webhooks
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.database import Database
from raymill.registry.jobs import ErrorClass
from raymill.registry.tables import (
    Alias,
    AliasMove,
    DeploymentState,
    Job,
    JobState,
    LlmVersion,
    Pipeline,
    Promotion,
    PromotionState,
    TriggerEvent,
)


@dataclass
class Receiver:
    """Answers with each status once, and with the last one for ever after."""

    statuses: list[int] = field(default_factory=lambda: [200])
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    wait_s: float = 0.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    script = Receiver()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            script.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
            over.wait(script.wait_s)
            status = script.statuses.pop(0) if len(script.statuses) > 1 else script.statuses[0]
            try:
                self.send_response(status)
                self.send_header("Location", "http://169.254.169.254/")
                self.end_headers()
                self.wfile.write(b"said why" if status >= 400 else b"")
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://localhost:{server.server_address[1]}/in?team=a"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield script
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path))
    found = Settings(home=tmp_path)
    found.secret_box.create_if_missing()
    return found


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return World(database, settings.home)


def add(
    database: Database, settings: Settings, *on: str, action: str, name: str = "tell", **config: Any
) -> str:
    """A hook. Returns its secret."""
    with database.transaction() as session:
        _, secret = hooks.create(
            session, name, ADA, on=list(on), action=action, config=config, box=settings.secret_box
        )
    return secret or ""


def act(database: Database, settings: Settings) -> Job:
    """One attempt at the next job of a hook."""
    with database.transaction() as session:
        session.execute(update(Job).where(Job.state == JobState.QUEUED).values(run_at=Job.created_at))
    job = claim_one(database, queue="hooks")
    Attempt(database, settings, job, {}).run()
    return read_job(database, job.id)


def end_one(database: Database) -> None:
    make_pipeline(database)
    succeed(database, claim_one(database))


# --- webhook ----------------------------------------------------------------------------------------------


def test_a_delivery_is_signed_and_tells_what_ended(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    secret = add(database, settings, "pipeline.succeeded", action="webhook", url=receiver.url)
    end_one(database)
    job = act(database, settings)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    assert job.result is not None
    assert (job.result["status"], job.result["hook"]) == (200, "tell")
    ((headers, body),) = receiver.seen
    webhooks.check(secret, headers["x-raymill-signature"], body)
    assert headers["x-raymill-delivery"] == str(job.id)
    assert headers["x-raymill-event"] == "pipeline.succeeded"
    assert headers["host"].startswith("localhost:")
    said = json.loads(body)
    assert sorted(said) == ["at", "event", "pipeline"]
    assert (said["event"], said["pipeline"]["state"]) == ("pipeline.succeeded", "succeeded")
    assert secret not in json.dumps([job.config, job.result])


def test_a_receiver_that_breaks_is_asked_again_with_the_same_delivery(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    add(database, settings, "pipeline.succeeded", action="webhook", url=receiver.url)
    receiver.statuses = [500, 200]
    end_one(database)
    first = act(database, settings)
    assert (first.state, first.failures) == (JobState.QUEUED, {"transient": 1})
    assert "answered 500: said why" in (first.error or "")
    assert act(database, settings).state is JobState.SUCCEEDED
    deliveries = {headers["x-raymill-delivery"] for headers, _ in receiver.seen}
    assert deliveries == {str(first.id)}
    assert len(receiver.seen) == 2


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_receiver_that_says_later_is_asked_later(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    with pytest.raises(Unavailable, match=str(status)):
        work.deliver(receiver.url, b"{}", {})


@pytest.mark.parametrize("status", [400, 404, 410, 302])
def test_a_receiver_that_refuses_is_not_asked_again(
    database: Database, settings: Settings, receiver: Receiver, status: int
) -> None:
    add(database, settings, "pipeline.succeeded", action="webhook", url=receiver.url)
    receiver.statuses = [status]
    end_one(database)
    job = act(database, settings)
    assert job.state is JobState.FAILED
    assert str(status) in (job.error or "")
    assert len(receiver.seen) == 1


def test_a_receiver_that_is_slow_is_left_after_the_time_limit(receiver: Receiver) -> None:
    receiver.wait_s = 60.0
    started = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer within"):
        work.deliver(receiver.url, b"{}", {}, timeout_s=0.2)
    assert time.monotonic() - started < 30


def test_a_receiver_that_is_away_may_come_back() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        work.deliver("http://127.0.0.1:1/", b"{}", {})
    with pytest.raises(Unavailable, match="cannot be reached"):
        work.deliver("http://nowhere.invalid/", b"{}", {})


def test_a_name_that_leads_to_a_machines_metadata_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def lead(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", lead)
    with pytest.raises(Invalid, match="metadata"):
        work.deliver("http://innocent.example/", b"{}", {})


def test_the_next_address_is_tried_when_nobody_listens_at_the_first(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    look_up = socket.getaddrinfo

    def lead(host: Any, port: Any, *args: Any, **named: Any) -> Any:
        if host != "dual.test":
            return look_up(host, port, *args, **named)
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", lead)
    assert work.deliver(receiver.url.replace("localhost", "dual.test"), b"{}", {}) == 200
    assert len(receiver.seen) == 1


def test_a_hook_that_is_off_or_gone_does_nothing_more(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    add(database, settings, "pipeline.succeeded", action="webhook", url=receiver.url)
    end_one(database)
    end_one(database)
    with database.transaction() as session:
        hooks.enable(session, "tell", ADA, enabled=False)
    off = act(database, settings)
    assert (off.state, "disabled" in (off.error or "")) == (JobState.FAILED, True)
    with database.transaction() as session:
        hooks.remove(session, "tell", ADA)
    gone = act(database, settings)
    assert (gone.state, "was deleted" in (gone.error or "")) == (JobState.FAILED, True)
    assert receiver.seen == []


def test_the_kinds_of_hooks_wait_in_their_own_queue_and_cannot_be_submitted() -> None:
    for action in hooks.ACTIONS:
        kind = KINDS[f"hook_{action}"]
        assert (kind.queue, kind.alone) == (hooks.QUEUE, False)
        assert callable(kind.load())


# --- promote, roll back -----------------------------------------------------------------------------------


def alias_at(world: World, alias: str = "production") -> int | None:
    with world.database.transaction() as session:
        row = session.scalar(select(Alias).where(Alias.name == alias))
        return row.version.number if row is not None else None


def test_the_version_that_a_pipeline_made_is_promoted_as_the_policy_says(
    world: World, settings: Settings
) -> None:
    add(world.database, settings, "pipeline.succeeded", action="promote", name="stage", alias="staging")
    number = world.make_version()
    job = act(world.database, settings)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    assert alias_at(world, "staging") == number
    assert job.result is not None
    assert "envelopes" not in job.result
    with world.database.transaction() as session:
        row = session.scalars(select(Promotion)).one()
    assert (row.allowed, row.requested_by, row.job_id) == (True, "ada", job.id)


def test_a_version_that_the_policy_refuses_is_a_failed_job_and_on_record(
    world: World, settings: Settings
) -> None:
    add(world.database, settings, "pipeline.succeeded", action="promote")
    world.make_version(score=0.1)
    job = act(world.database, settings)
    assert (job.state, "was refused for production" in (job.error or "")) == (JobState.FAILED, True)
    assert alias_at(world) is None
    with world.database.transaction() as session:
        assert [row.allowed for row in session.scalars(select(Promotion))] == [False]


def test_a_promotion_by_a_hook_starts_no_trigger_that_led_to_it(world: World, settings: Settings) -> None:
    add(world.database, settings, "pipeline.succeeded", action="promote")
    world.make_version()
    job = act(world.database, settings)
    with world.database.transaction() as session:
        event = session.scalars(select(TriggerEvent).where(TriggerEvent.on == "promotion")).one()
    assert event.data["caused_by"] == job.config["pipeline_id"]


def test_a_pipeline_without_a_version_has_nothing_to_promote(world: World, settings: Settings) -> None:
    add(world.database, settings, "pipeline.succeeded", action="promote")
    end_one(world.database)
    job = act(world.database, settings)
    assert (job.state, "made no version" in (job.error or "")) == (JobState.FAILED, True)


def test_an_alias_goes_back_only_from_the_version_that_the_pipeline_made(
    world: World, settings: Settings
) -> None:
    first = world.make_version()
    assert world.promote(first).allowed
    add(world.database, settings, "pipeline.succeeded", action="rollback", name="back")
    second = world.make_version()  # as if its serving had failed after its promotion
    assert world.promote(second).allowed
    job = act(world.database, settings)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    assert alias_at(world) == first
    world.make_version()  # which was never promoted: what is in production stays
    idle = act(world.database, settings)
    assert idle.state is JobState.SUCCEEDED
    assert idle.result is not None
    assert "skipped" in idle.result
    assert alias_at(world) == first
    with world.database.transaction() as session:
        moves = session.scalars(select(AliasMove).order_by(AliasMove.id)).all()
        numbers = [session.get_one(LlmVersion, move.version_id).number for move in moves]
    assert numbers == [first, second, first]


def test_a_canary_of_the_version_that_the_pipeline_made_is_what_goes_back(
    world: World, settings: Settings
) -> None:
    assert world.promote(world.make_version()).allowed
    second = world.make_version()
    assert world.promote(second).allowed
    world.serve()
    add(world.database, settings, "pipeline.succeeded", action="rollback", name="back")
    third = world.make_version()
    answers(world)
    asked = try_out(world, third)
    job = act(world.database, settings)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    assert job.result is not None
    assert (job.result["ended_canary"], job.result["version"]) == (str(asked), third)
    assert alias_at(world) == second
    with world.database.transaction() as session:
        row = session.get_one(Promotion, asked)
        assert (row.state, row.note) == (PromotionState.ABORTED, "rolled back by ada: hook back")
        second_run = session.scalars(select(Pipeline).order_by(Pipeline.id)).all()[1]
        hooks.after_pipeline(session, second_run)
    asked = try_out(
        world, third
    )  # beside the version that goes back now: it has nothing to be compared with any more
    job = act(world.database, settings)
    assert (job.state, alias_at(world)) == (JobState.SUCCEEDED, 1)
    with world.database.transaction() as session:
        row = session.get_one(Promotion, asked)
        told = "the alias was moved to version 1 meanwhile"
        assert (row.state, row.note, canaries.running(session)) == (PromotionState.ABORTED, told, [])


def answers(world: World) -> None:
    """What the alias is at is served."""
    with world.database.transaction() as session:
        at = session.scalars(select(Alias)).one()
        deployments.report(session, at.llm_id, at.name, DeploymentState.READY, at.version_id, "")


def try_out(world: World, number: int) -> uuid.UUID:
    """A canary, by its promotion."""
    asked = promotion.promote(
        world.database,
        world.store,
        world.keys_dir,
        llm="support-triage",
        number=number,
        alias="production",
        require={},
        actor=ADA,
        canary=CanaryConfig(share=0.1),
    )
    assert asked.state is PromotionState.CANARY
    return asked.id


def test_a_promotion_that_comes_while_a_roll_back_is_decided_stays(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.promote(world.make_version()).allowed
    add(world.database, settings, "pipeline.succeeded", action="rollback")
    second = world.make_version()
    assert world.promote(second).allowed
    sign, third = promotion.sign, 0

    def promote_meanwhile(*args: Any) -> Any:
        nonlocal third
        if not third:
            third = world.make_version()
            assert world.promote(third).allowed
        return sign(*args)

    monkeypatch.setattr(promotion, "sign", promote_meanwhile)
    job = act(world.database, settings)
    assert job.state is JobState.SUCCEEDED
    assert (job.result or {})["skipped"] == f"production has moved on from version {second}"
    assert alias_at(world) == third


def test_a_version_that_was_taken_back_is_not_gone_back_to(world: World) -> None:
    first, second = world.make_version(), world.make_version()
    for number in (first, second, first):
        assert world.promote(number).allowed
    with world.database.transaction() as session:
        versions = session.scalars(select(LlmVersion).order_by(LlmVersion.number)).all()
        assert aliases.version_before(session, versions[0], "production") is None
        assert aliases.version_before(session, versions[1], "production") is versions[0]


def test_a_first_version_has_nowhere_to_go_back_to(world: World, settings: Settings) -> None:
    add(world.database, settings, "pipeline.succeeded", action="rollback")
    assert world.promote(world.make_version()).allowed
    job = act(world.database, settings)
    assert (job.state, "was never at a version before" in (job.error or "")) == (JobState.FAILED, True)


def test_a_failed_step_reaches_its_hooks_through_the_engine(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    add(database, settings, "job.failed", "pipeline.failed", action="webhook", url=receiver.url)
    make_pipeline(database, step("a"), step("b", "a"))
    (job,) = claim(database)
    with database.transaction() as session:
        jobs.fail(session, job.id, job.epoch, "the input is wrong", ErrorClass.INPUT)
    for _ in range(2):
        assert act(database, settings).state is JobState.SUCCEEDED
    told = [json.loads(body) for _, body in receiver.seen]
    assert [each["event"] for each in told] == ["job.failed", "pipeline.failed"]
    assert told[0]["job"]["error"] == "the input is wrong"
