"""The schema as migrations make it, and patience with a Postgres that is away."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session
from tests.registry.making import ADA, World, claim_one, make_pipeline, read_job, step

from raymill.policies.errors import Conflict, Invalid, Unavailable
from raymill.registry import (
    accelerators,
    audit,
    jobs,
    personal,
    prices,
    provider_keys,
    providers,
    quotas,
    routes,
    sessions,
    tables,
    teams,
)
from raymill.registry.database import MIGRATIONS, Database, normal_url
from raymill.registry.jobs import Done, JobSpec
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.secrets import SecretBox
from raymill.registry.sessions import Lifetimes
from raymill.registry.tables import AuditEvent, Base, Job, JobState, Role, new_id


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: pytest makes that 0700, and root's PostgreSQL runs as a user who must pass through.
    path = Path(tempfile.mkdtemp(prefix="raymill-database-"))
    path.chmod(0o755)
    yield path
    EmbeddedPostgres(path / "postgres").stop()
    shutil.rmtree(path)


def populated(database: Database, home: Path) -> World:
    """At least one row in every table."""
    world = World(database, home)
    world.promote(world.make_version())
    world.serve()
    world.add_key(Role.VIEWER)
    configure_gateway(database, home)
    with database.transaction() as session:
        session.add_all(recorded_by_gateway())
        session.add_all(of_the_control_plane(session))
        session.add_all(submitted_code(session))
    return world


def of_the_control_plane(session: Session) -> list[Base]:
    """A row of each table of triggers, hooks, trials, drift and finished jobs."""
    jobs.enqueue(jobs.raw(session), [jobs.JobSpec(kind="note")])
    now = dt.datetime.now(dt.UTC)
    session.execute(text("CREATE TABLE job_history_all PARTITION OF job_history DEFAULT"))
    made = {"created_by": "ada", "config": {}, "enabled": True}
    watch = tables.DriftWatch(name="canaries", **made)
    session.add(watch)
    session.flush()
    promoted = session.scalars(select(tables.Promotion)).first()
    assert promoted is not None
    return [
        tables.JobHistory(
            id=new_id(),
            finished_at=now,
            kind="note",
            queue="short",
            state=JobState.SUCCEEDED,
            job={},
            events=[],
        ),
        tables.Trigger(name="nightly", on="cron", recipe={}, next_at=now, **made),
        tables.TriggerEvent(on="cron", subject="nightly", key="k1", data={}),
        tables.Trial(
            job_id=session.scalars(select(tables.Job.id)).first(),
            number=1,
            config={},
            state=tables.TrialState.RUNNING,
            steps=0,
            total_steps=0,
            reports=[],
            copies=[],
            seconds=0.0,
        ),
        tables.Archived(version_id=session.scalars(select(tables.LlmVersion.id)).first(), archived_by="ada"),
        tables.Environment(name="production", approvals=0, roles=["admin"], expires_after_s=60),
        tables.Approval(promotion_id=promoted.id, account="grace", role="admin"),
        tables.Canary(
            promotion_id=promoted.id,
            llm_id=promoted.version.llm_id,
            alias=promoted.alias,
            version_id=promoted.version_id,
            current_id=promoted.version_id,
            config={},
            state=tables.CanaryState.RUNNING,
        ),
        tables.Hook(name="tell", on=["pipeline.failed"], action="webhook", **made),
        tables.DriftRun(
            watch_id=watch.id,
            job_id=new_id(),
            severity="minor",
            news=True,
            action="tell",
            reasons=["language: PSI 0.20"],
            baseline=False,
        ),
    ]


def submitted_code(session: Session) -> list[Base]:
    """A row of each table of code analysis."""
    submission, job = (
        new_id(),
        session.scalars(select(tables.Job).where(tables.Job.pipeline_id.is_not(None))).first(),
    )
    account = session.scalars(select(tables.Account)).first()
    assert job is not None
    assert account is not None
    place = {"submission_id": submission, "severity": "low", "file": "a.py", "line_start": 1, "data": {}}
    said = {
        "submission_id": submission,
        "job_id": job.id,
        "step": "forensic",
        "model": "m",
        "request_id": "r-1",
    }
    counts = {"epoch": 1, "number": 1, "step_version": 1, "prompt_tokens": 1, "completion_tokens": 1}
    session.add(
        tables.CodeSubmission(
            id=submission,
            pipeline_id=job.pipeline_id,
            account_id=account.id,
            comment="",
            files=[],
            size_bytes=1,
        )
    )
    session.flush()
    return [
        tables.CodeFinding(phase="before", id="0a1b2c3d", **place),
        tables.CodeAnswer(content="{}", latency_ms=1.0, **said, **counts),
        tables.CodeStepVersion(step="forensic", number=1, config={}, note="", created_by="ada"),
        tables.CodeStep(step="forensic", active=1, changed_at=dt.datetime.now(dt.UTC)),
        tables.CodeExperiment(
            fault="rate_limits", share=1.0, delay_s=0.0, until=dt.datetime.now(dt.UTC), started_by="ada"
        ),
    ]


def configure_gateway(database: Database, home: Path) -> None:
    """At least one row in every table of what the gateway works by."""
    box = SecretBox(home / "keys" / "secrets")
    box.create_if_missing()
    with database.transaction() as session:
        provider = providers.add(session, "openai", ADA, preset="openai")
        provider_keys.set_key(session, box, "openai", "main", "sk-0123456789", ADA)
        providers.record_check(session, provider.id, ok=True, status=200, latency_ms=12.5)
        providers.sync_models(session, "openai", ["gpt-4o"], ADA)
        prices.set_price(session, "openai", "gpt-4o", prices.Price(1, 1, 2), ADA)
        config = {"targets": [{"provider": "openai", "model": "gpt-4o"}]}
        routes.set_route(session, "smart", config, ADA)
        routes.set_preset(session, "tutor", ADA, model="smart", system="Be kind.", params={})
        teams.create_team(session, "research", ADA)
        quotas.set_quota(session, "research", {"max_gpus": 8}, ADA)
        accelerators.tell(session, {"any": accelerators.Gpus(8, 8)})
        account = session.scalars(select(tables.Account)).first()
        assert account is not None
        session.add(tables.Budget(subject=f"account:{account.id}", period="day", limit_micro_usd=5_000_000))
        session.add(tables.Feedback(request_id="r-1", account_id=account.id, score=1.0))
        session.add(tables.Password(account_id=account.id, phc="$argon2id$"))
        session.add(tables.LoginAttempts(subject="0" * 64, count=1, last_at=dt.datetime.now(dt.UTC)))
        tokens = sessions.open_session(
            session, box, account, "password", ADA, Lifetimes(access_s=60, session_s=60)
        )
        sessions.refresh_session(
            session, box, tokens.refresh_token, ADA, Lifetimes(access_s=60, session_s=60)
        )
        session.add(
            tables.OidcLogin(
                state_sha256="0" * 64,
                nonce="n",
                verifier="v",
                redirect_uri="http://127.0.0.1/",
                expires_at=dt.datetime.now(dt.UTC),
            )
        )
        personal.set_person(session, box, account, {"email": "ada@example.org"}, ADA)
        session.add(tables.ExternalIdentity(account_id=account.id, issuer="https://a", subject="b"))
        session.add(tables.Upload(name="train.jsonl", size_bytes=3, sha256="0" * 64, created_by="ada"))


def recorded_by_gateway() -> list[Base]:
    """A row of each table that gateways write."""
    now = dt.datetime.now(dt.UTC)
    replica, account, usage = new_id(), new_id(), new_id()
    meter = {"name": f"account:{account}/tokens/day", "bucket": 0}
    asked = {"request_id": "r-1", "route": "smart", "account_id": account, "at": now}
    return [
        tables.GatewayReplica(id=replica, node="n1"),
        tables.Meter(**meter, used=3, leased=7),
        tables.MeterLease(**meter, replica_id=replica, amount=7),
        tables.Usage(
            id=usage,
            **asked,
            replica_id=replica,
            key_id=new_id(),
            operation="chat",
            provider="openai",
            model="gpt-4o",
            status=200,
            outcome="ok",
            stream=False,
            attempts=1,
            prompt_tokens=2,
            cached_tokens=0,
            completion_tokens=1,
            estimated=False,
            cost_micro_usd=4,
            priced=True,
            latency_ms=10.0,
            overhead_ms=0.5,
        ),
        tables.Trace(usage_id=usage, **asked, prompt={"messages": []}, answer={}),
        tables.KeptAnswer(
            account_id=account, key="k1", request_hash="h", replica_id=replica, headers={}, expires_at=now
        ),
    ]


def rows_of(database: Database) -> dict[str, int]:
    with database.transaction() as session:
        return {
            name: session.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


# --- migrations -------------------------------------------------------------------------------------------


def test_the_schema_is_the_one_that_the_models_describe(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_go_down_and_up_again_over_rows_in_every_table(database: Database, tmp_path: Path) -> None:
    populated(database, tmp_path)
    counts = rows_of(database)
    assert min(counts.values()) > 0, counts
    database.migrate("base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.migrate()
    # The tiers and queues that there are come with the migration.
    assert {name for name, count in rows_of(database).items() if count} == {"tier", "queue"}
    populated(database, tmp_path / "again")


def test_migrating_what_is_new_already_changes_nothing(database: Database, tmp_path: Path) -> None:
    populated(database, tmp_path)
    counts = rows_of(database)
    threads = [threading.Thread(target=database.migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows_of(database) == counts


def test_a_migration_that_fails_lets_the_next_one_in(database: Database) -> None:
    with pytest.raises(Exception, match="no_such_revision"):
        database.migrate("no_such_revision")
    database.migrate()
    other = Database(database.url.render_as_string(hide_password=False))
    other.migrate()  # would wait for ever if the lock were still held
    other.close()


def test_work_of_the_release_before_goes_on_after_the_newest_migration(postgres: EmbeddedPostgres) -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    before = scripts.get_revision("head").down_revision
    name = f"test_{new_id().hex}"
    admin = create_engine(normal_url(postgres.url()).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    old = Database(normal_url(postgres.url()).set(database=name).render_as_string(hide_password=False))
    old.migrate(str(before))
    assert old.revisions()[0] == before
    with old.transaction() as session:
        session.execute(
            text(
                "INSERT INTO job (id, step, kind, queue, name, config) VALUES (:id, 'note', 'note', 'short', 'n', '{}')"
            ),
            {"id": new_id()},
        )
    old.migrate()
    assert old.revisions() == (scripts.get_current_head(),) * 2
    job = claim_one(old)
    with old.transaction() as session:
        assert jobs.complete(jobs.raw(session), [Done(job.id, job.epoch, {})]) == {job.id}
    old.close()


def test_a_schema_of_a_newer_release_is_refused_and_left_as_it_is(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(
        Conflict, match="at 9999, which is newer than this release: run the release that made it"
    ):
        database.migrate()
    assert database.revisions()[0] == "9999"


def test_workers_go_on_over_a_schema_that_was_expanded_meanwhile(database: Database) -> None:
    held = database.hold()
    with database.transaction() as session:
        jobs.enqueue(jobs.raw(session), [JobSpec(kind="note") for _ in range(20)])

    def work(connection: jobs.Connection) -> None:
        (job,) = jobs.claim(connection, "short", "w1", limit=1, lease_s=30)
        assert jobs.beat(connection, [(job.id, job.epoch)], lease_s=30)[0].owned
        assert jobs.complete(connection, [Done(job.id, job.epoch, {})]) == {job.id}
        with database.transaction() as session:
            assert session.get_one(Job, job.id).state is JobState.SUCCEEDED

    for _ in range(7):  # often enough for the driver to have prepared the statements
        held.run(work)
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE job ADD COLUMN note text"))
        connection.execute(text("ALTER TABLE job ADD COLUMN weight int NOT NULL DEFAULT 1"))
        connection.execute(text("CREATE INDEX job_weight_idx ON job (weight)"))
    for _ in range(7):
        held.run(work)
    with database.transaction() as session:
        jobs.enqueue(jobs.raw(session), [JobSpec(kind="note")])
    held.close()


# --- what the database itself refuses ---------------------------------------------------------------------


@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("table", ["audit_event", "alias_move"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET actor = 'eve'"])
def test_history_can_only_grow_P7(database: Database, table: str, statement: str, granted: bool) -> None:
    refused = f"{table} is append-only"
    if granted:
        with database.transaction() as session:
            session.execute(text(f"GRANT ALL ON {table} TO CURRENT_USER"))
    elif table == "audit_event":  # the service's role has not even the privilege
        refused = "permission denied for table audit_event"
    with pytest.raises(DBAPIError, match=refused), database.transaction() as session:
        session.execute(text(statement.format(table)))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE job SET state = 'running'",
        "UPDATE job SET slot = 0",
        "UPDATE job SET priority = 9",
        "UPDATE job SET pipeline_id = gen_random_uuid()",
    ],
)
def test_a_job_can_be_in_no_impossible_state(database: Database, statement: str) -> None:
    make_pipeline(database)
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(text(statement))


# --- a database that is away ------------------------------------------------------------------------------


def test_what_was_told_of_outlives_a_server_that_is_killed_and_no_change_is_without_its_audit_row_P7(
    folder: Path,
) -> None:
    server = EmbeddedPostgres(folder / "postgres")
    database = Database(server.ensure_running())
    database.migrate()
    with database.transaction() as session:
        session.execute(text("CREATE TABLE change (name text)"))
    told: list[str] = []

    def write(writer: int) -> None:
        for number in range(100_000):
            name = f"{writer}-{number}"
            with database.transaction() as session:
                session.execute(text("INSERT INTO change VALUES (:name)"), {"name": name})
                audit.record(session, ADA, "test.change", name)
            told.append(name)

    with ThreadPoolExecutor(4) as threads:
        ends = [threads.submit(write, writer) for writer in range(4)]
        while len(told) < 100 and not any(end.done() for end in ends):
            time.sleep(0.01)
        pid = server.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert all(isinstance(end.exception(), DBAPIError | psycopg.Error) for end in ends)
    server.ensure_running()
    database.engine.dispose()
    with database.transaction() as session:
        rows = set(session.scalars(select(AuditEvent.object)))
        changes = set(session.scalars(text("SELECT name FROM change")))
        assert audit.verify(session).rows == len(rows)
    assert rows == changes
    assert rows >= set(told)
    database.close()


def test_work_waits_for_a_server_that_was_killed_and_is_then_done_once(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "postgres")
    database = Database(server.ensure_running())
    database.migrate()
    make_pipeline(database)
    job = claim_one(database)
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    def come_back() -> None:
        time.sleep(1)
        server.ensure_running()

    back = threading.Thread(target=come_back)
    back.start()

    def end(session: Session) -> JobState:
        audit.record(session, ADA, "test.end", "x")
        return jobs.succeed(session, job.id, job.epoch, result={"digest": "d"})

    assert database.patiently(end, timeout_s=60) is JobState.SUCCEEDED
    back.join()
    assert read_job(database, job.id).state is JobState.SUCCEEDED
    with database.transaction() as session:
        assert session.scalars(select(AuditEvent.action)).all() == ["pipeline.create", "test.end"]
    database.close()


def test_patience_ends_with_a_cure() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable, match="did not answer for 0 s: see that it runs"):
        database.patiently(lambda session: session.connection(), timeout_s=0)
    database.close()


def test_a_wrong_statement_is_no_absence(database: Database) -> None:
    tried: list[int] = []

    def work(session: Session) -> None:
        tried.append(1)
        session.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(DBAPIError, match="nowhere"):
        database.patiently(work)
    assert len(tried) == 1


def test_a_deadlock_is_tried_again(database: Database) -> None:
    make_pipeline(database, step("a"))
    make_pipeline(database, step("b"))
    with database.transaction() as session:
        first, second = session.scalars(select(Job.id).order_by(Job.id)).all()
    barrier = threading.Barrier(2, timeout=60)
    tries: list[int] = []

    def work(session: Session, one: object, two: object) -> None:
        tries.append(1)
        session.execute(select(Job.id).where(Job.id == one).with_for_update())
        if len(tries) <= 2:
            barrier.wait()
        session.execute(select(Job.id).where(Job.id == two).with_for_update())

    other = threading.Thread(target=lambda: database.patiently(lambda session: work(session, second, first)))
    other.start()
    database.patiently(lambda session: work(session, first, second))
    other.join()
    assert len(tries) == 3


# --- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_addresses_as_people_write_them(scheme: str) -> None:
    assert normal_url(f"{scheme}://ada@db/raymill").drivername == "postgresql+psycopg"


def test_an_address_may_say_how_long_connecting_takes() -> None:
    assert normal_url("postgresql://ada@db/raymill").query == {"connect_timeout": "5"}
    slow = normal_url("postgresql://ada@db/raymill?sslmode=require&connect_timeout=30")
    assert slow.query == {"connect_timeout": "30", "sslmode": "require"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is no database address: it must look like postgresql://user@host/db"),
        ("db.example.org", "is no database address"),
        ("postgresql://ada:secret@db:port/x", "is no database address"),
        ("mysql://ada@db/raymill", "names 'mysql': only postgresql:// works"),
        ("postgresql+asyncpg://ada@db/raymill", r"names 'postgresql\+asyncpg'"),
    ],
)
def test_other_addresses_are_refused_without_showing_the_password(url: str, message: str) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        normal_url(url)
    assert "secret" not in str(caught.value)
