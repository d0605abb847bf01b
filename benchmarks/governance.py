"""`make bench-governance`: what the audit log finds and costs, and what signing costs; writes `results/governance.json`.

    audit     4 processes append, each row in a transaction of its own, beside as many plain rows (`plain_commits_per_s`);
              the log is walked; 10,000 random tamperings of a log of 5,000 rows with a signed root, as it is exported
              and as it lies in Postgres
    policy    how long the rules take over one promotion, and rules that say nothing (`policy_floor_p99_ms`)
    signing   a version of 1 GiB is signed and verified, beside plain SHA-256 of the same bytes

On a Postgres of its own that flushes every commit to disk. No service, no network.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks import report, tampering
from benchmarks.goals import Goal, Results, judge
from benchmarks.measure import say
from sqlalchemy import text

from raymill.policies.engine import PolicyEngine, shipped_rules
from raymill.registry import audit, audit_roots
from raymill.registry.artifacts import digest_files, sha256_file
from raymill.registry.audit import Actor
from raymill.registry.audit_chain import AuditBroken, Chain, Root, line, verify_lines
from raymill.registry.database import Database
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.signing import sign_statement, verify_directory
from raymill.registry.signing_keys import KeyRing

Write = Callable[[Database, int], None]
ACTOR = Actor(name="ada", request_id="4f0c2f6e9b7d4e0f8a1b2c3d4e5f6071", address="192.0.2.7")
NAME = "model/bench/0a1b2c3d4e5f"
GOALS = (
    Goal("tamper_missed", "<=", 0),
    Goal("tamper_false", "<=", 0),
    Goal("audit_appends_per_s", ">=", 1500),
    Goal("audit_verify_rows_per_s", ">=", 50_000),
    Goal("policy_p99_ms", "<=", 1.0),
    Goal("sign_vs_sha256", ">=", 0.8),
    Goal("verify_vs_sha256", ">=", 0.8),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    writers: int = 4
    appends: int = 6000
    verify_rows: int = 50_000
    walks: int = 7
    tamper_rows: int = 5000
    tamperings: int = 10_000
    tamperings_in_database: int = 300
    """Of these, so many in Postgres itself."""
    decisions: int = 5000
    version_bytes: int = 1 << 30
    rounds: int = 5


QUICK = Plan(
    appends=800,
    verify_rows=10_000,
    walks=3,
    tamper_rows=500,
    tamperings=300,
    tamperings_in_database=30,
    decisions=500,
    version_bytes=1 << 26,
    rounds=3,
)


def append_one(database: Database, number: int) -> None:
    with database.transaction() as session:
        audit.record(
            session,
            ACTOR,
            "alias.move",
            f"llm/support-{number % 100}@production",
            before={"version": number},
            after={"version": number + 1},
            promotion="0192f0c1-5b7e-7000-8000-0a1b2c3d4e5f",
        )


def commit_one(database: Database, number: int) -> None:
    """What any change costs: one row, one commit."""
    with database.transaction() as session:
        session.execute(text("INSERT INTO plain (number) VALUES (:number)"), {"number": number})


def write_many(write: Write, url: str, count: int, together: Barrier) -> None:
    """A writer: a process of its own."""
    database = Database(url)
    write(database, 0)
    together.wait()
    for number in range(count):
        write(database, number)
    together.wait()


def writes_per_s(write: Write, url: str, plan: Plan) -> float:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(plan.writers + 1)
    count = plan.appends // plan.writers
    arguments = (write, url, count, together)
    writers = [context.Process(target=write_many, args=arguments) for _ in range(plan.writers)]
    for writer in writers:
        writer.start()
    together.wait(timeout=120)
    began = time.perf_counter()
    together.wait(timeout=600)
    seconds = time.perf_counter() - began
    for writer in writers:
        writer.join()
    return count * plan.writers / seconds


def verify_rows_per_s(database: Database, plan: Plan) -> float:
    with database.transaction() as session:
        for number in range(plan.verify_rows):
            audit.record(session, ACTOR, "route.set", f"route/r{number % 50}", config={"n": number, "w": 0.5})
    rates = []
    for _ in range(plan.walks):
        with database.transaction() as session:
            began = time.perf_counter()
            rows = audit.verify(session).rows
            rates.append(rows / (time.perf_counter() - began))
    return statistics.median(rates)


def tamper(database: Database, plan: Plan, keys: KeyRing) -> Results:
    """Each tampering is of the untouched log, and is held against its signed root. Between them the untouched one is."""
    with database.transaction() as session:
        for number in range(plan.tamper_rows):
            about = {"before": {"version": number}, "after": {"version": number + 1}}
            audit.record(session, ACTOR, "alias.move", f"llm/m{number % 9}@production", **about)
    with database.transaction() as session:
        chain = Chain()
        lines = [line(*row) for row in audit.walk(session, chain)]
    root = audit_roots.verify_root(
        audit_roots.sign_root(keys.signer(), audit_roots.root_of(chain)), keys.public_keys()
    )
    draw = random.Random(7)
    missed: list[str] = []
    false = 0
    in_export = plan.tamperings - plan.tamperings_in_database
    for number in range(in_export):
        kind = tampering.KINDS[number % len(tampering.KINDS)]
        damaged = kind(lines, draw)
        if not _is_broken(lambda damaged=damaged: verify_lines(damaged, [root])):  # type: ignore[misc]
            missed.append(f"{kind.__name__} {number}")
        if number % 100 == 0:
            false += _is_broken(lambda: verify_lines(lines, [root]))
    for _ in range(plan.tamperings_in_database):
        found, what = _found_in_database(database, root, plan.tamper_rows, draw)
        if not found:
            missed.append(what)
    with database.transaction() as session:
        false += _is_broken(lambda: audit.verify(session, [root]))
    return {
        "tamper_tried": plan.tamperings,
        "tamper_found": plan.tamperings - len(missed),
        "tamper_missed": len(missed),
        "tamper_false": false,
        "missed": missed[:20],
    }


class _RollBack(Exception):
    pass


def _found_in_database(database: Database, root: Root, rows: int, draw: random.Random) -> tuple[bool, str]:
    found, what = False, ""
    with contextlib.suppress(_RollBack), database.transaction() as session:
        what = tampering.tamper_in_database(session, rows, draw)
        found = _is_broken(lambda: audit.verify(session, [root]))
        raise _RollBack
    return found, what


def _is_broken(verify: Callable[[], object]) -> bool:
    try:
        verify()
    except AuditBroken:
        return True
    return False


EMPTY_RULES = """package raymill.promotion

decision := {"allow": true, "refused": []}
"""


def policy(plan: Plan) -> Results:
    """A promotion that is allowed, one that is refused with its reason, and what rules that say nothing take."""
    question = {
        "name": "support",
        "version": 3,
        "to": "production",
        "require": {"heldout_exact_match": {"at_least": 0.9, "not_below_base": True}},
        "metrics": {"heldout_exact_match": 0.95, "heldout_f1": 0.97},
        "base_metrics": {"heldout_exact_match": 0.1},
        "quantized_metrics": {"Q8_0": {"heldout_exact_match": 0.95}},
        "dataset_digest": "0" * 64,
        "evaluated": True,
        "signed": True,
        "frozen": True,
    }
    worse = question | {"metrics": {"heldout_exact_match": 0.85, "heldout_f1": 0.97}}
    empty = PolicyEngine({"promotion.rego": EMPTY_RULES})
    return {
        "policy_p99_ms": decision_p99_ms(shipped_rules(), question, plan, allowed=True),
        "policy_refused_p99_ms": decision_p99_ms(shipped_rules(), worse, plan, allowed=False),
        "policy_floor_p99_ms": decision_p99_ms(empty, question, plan, allowed=True),
    }


def decision_p99_ms(engine: PolicyEngine, question: Results, plan: Plan, *, allowed: bool) -> float:
    times = []
    for _ in range(plan.decisions):
        began = time.perf_counter()
        decision = engine.decide(question)
        times.append((time.perf_counter() - began) * 1000)
        assert decision.allowed is allowed, decision.reasons
    return round(sorted(times)[int(len(times) * 0.99)], 3)


def make_version(directory: Path, plan: Plan) -> None:
    """One large file of weights, as a model of 1 GiB has, and the small ones beside it."""
    directory.mkdir()
    with (directory / "model.safetensors").open("wb") as file:
        for _ in range(plan.version_bytes >> 20):
            file.write(os.urandom(1 << 20))
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (directory / name).write_text("{}" * 1000)


def signing(folder: Path, plan: Plan, keys: KeyRing) -> Results:
    """The best of some rounds each, by turns: what another process took of the disk or the core is in none of them."""
    directory = folder / "0a1b2c3d4e5f"
    make_version(directory, plan)
    signer, public_keys = keys.signer(), keys.public_keys()
    claims = {"llm": "bench", "version": 1}
    envelope = sign_statement(signer, digest_files(directory), claims, NAME)
    ways: dict[str, Callable[[], object]] = {
        "sha256": lambda: [sha256_file(path) for path in directory.iterdir()],
        "sign": lambda: sign_statement(signer, digest_files(directory), claims, NAME),
        "verify": lambda: verify_directory(directory, envelope, public_keys, name=NAME),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(plan.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - began)
    return {
        "sign_vs_sha256": round(best["sha256"] / best["sign"], 3),
        "verify_vs_sha256": round(best["sha256"] / best["verify"], 3),
        "signing_seconds": {name: round(seconds, 3) for name, seconds in best.items()},
    }


def measure(plan: Plan, server: EmbeddedPostgres, folder: Path) -> Results:
    keys = KeyRing(folder / "keys")
    keys.create_if_missing()
    say(f"{plan.writers} writers append {plan.appends:,} rows")
    databases = {}
    owner = Database(server.url())
    for name in ("appends", "walks", "tampering"):
        with owner.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"CREATE DATABASE bench_{name}")
        databases[name] = Database(
            owner.url.set(database=f"bench_{name}").render_as_string(hide_password=False)
        )
        databases[name].migrate()
    owner.close()
    url = databases["appends"].url.render_as_string(hide_password=False)
    appends = writes_per_s(append_one, url, plan)
    with databases["appends"].transaction() as session:
        assert audit.verify(session).rows == plan.appends // plan.writers * plan.writers + plan.writers
    say("the same with plain rows")
    with databases["appends"].transaction() as session:
        session.execute(text("CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY, number bigint)"))
    plain = writes_per_s(commit_one, url, plan)
    say(f"walking a log of {plan.verify_rows:,} rows")
    walks = verify_rows_per_s(databases["walks"], plan)
    say(f"{plan.tamperings:,} tamperings of a log of {plan.tamper_rows:,} rows")
    tampered = tamper(databases["tampering"], plan, keys)
    for database in databases.values():
        database.close()
    say("policy and signing")
    return {
        **tampered,
        "audit_appends_per_s": round(appends, 1),
        "plain_commits_per_s": round(plain, 1),
        "audit_verify_rows_per_s": round(walks, 1),
        **policy(plan),
        **signing(folder, plan, keys),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make bench-governance ARGS=…", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--quick", action="store_true", help="a first look, written to .bench/")
    quick = parser.parse_args().quick
    plan = QUICK if quick else Plan()
    # Not below root's home: Postgres runs as another user, who must get in.
    folder = Path(tempfile.mkdtemp(prefix="raymill-bench-governance-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "postgres")
    machine = report.machine()
    try:
        server.ensure_running()
        measured = measure(plan, server, folder)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    results = {"date": report.now(), "machine": machine, "plan": vars(plan), **measured}
    results["goals"] = judge(results, GOALS)
    print(report.verdicts(results["goals"]))
    print(f"written to {report.write(results, 'governance.json', whole=not quick)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
