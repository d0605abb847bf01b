"""Code analysis over HTTP: what a submission goes through, what is measured, and what bad input or a bad model comes to."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from tests.registry.making import World, claim, read_job
from tests.serve.code_lab import CODE, GOOD, SAFE, WEAK, Lab, laboratory, raw, step_of, table
from tests.serve.control_app import app_of
from tests.serve.dataset_lab import error_of, run_all
from tests.serve.scripted_upstream import USAGE, error, says

from raymill.client import code_types as types
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid
from raymill.registry import code_steps, identity, limits
from raymill.registry.audit import SYSTEM
from raymill.registry.database import clock
from raymill.registry.tables import CodeSubmission, Job, JobState, Meter, Role
from raymill.serve.api.context import Parts
from raymill.serve.code.faults import FAULTS
from raymill.serve.code.intake import from_patch
from raymill.serve.code.report import unified


@pytest.fixture
def lab(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    with laboratory(world, monkeypatch) as made:
        yield made


# --- the way through --------------------------------------------------------------------------------------


def test_a_submission_comes_to_findings_rebuilt_code_and_a_measured_report(lab: Lab) -> None:
    made = lab.submit(code=WEAK, comment="Is this safe?")
    assert (made["state"], made["step"], made["language"]) == ("running", "forensic", "python")
    run_all(lab.world)
    shown = types.SubmissionDetail.model_validate(lab.show(made["id"]))
    assert (shown.state, shown.step, shown.error) == ("succeeded", None, None)
    assert [(step.step, step.state, step.model) for step in shown.steps] == [
        (step, "succeeded", "m") for step in types.STEPS
    ]
    by_line = {(each.line_start, each.cwe): each for each in shown.findings if each.outcome != "new"}
    shell = by_line[5, "CWE-78"]
    assert shell.sources == ["bandit", "ruff", "model"]
    assert (shell.evidence, shell.outcome) == ("os.system('ls ' + x)", "resolved")
    assert (by_line[4, None].sources, by_line[4, None].outcome) == (["model"], "not_judged")
    assert {each.file for each in shown.findings} == {"code.py"}  # the file that is not there is left out
    assert shown.rebuilt is not None
    assert shown.rebuilt[0].text == SAFE
    assert "-    os.system('ls ' + x)\n+    subprocess.run(['ls', x], check=True)\n" in (shown.diff or "")
    assert "> A shell is asked." in (shown.dossier or "")
    assert shown.quality is not None
    measured = shown.quality["measured"]
    assert (measured["parses_before"], measured["parses_after"], measured["unchecked"]) == (True, True, 0)
    assert measured["analysers"] == ["bandit", "patterns", "ruff"]
    # bandit sees low findings in every use of subprocess, so something is new, and the rating heeds it.
    assert measured["new"] == sum(each.outcome == "new" for each in shown.findings) > 0
    assert shown.quality["rating"] == shown.quality["rating_at_most"] == 80
    assert shown.quality["model"]["confidence"] == 95
    answers = lab.answers(made["id"])
    assert [each["step"] for each in answers] == list(types.STEPS)
    assert {each["prompt_tokens"] for each in answers} == {USAGE["prompt_tokens"]}
    assert all(each["problem"] is None and each["cost_micro_usd"] is None for each in answers)
    assert "Is this safe?" in str(lab.upstream.seen[0].body["messages"])
    (listed,) = lab.client.get(f"{CODE}/submissions").json()["data"]
    assert (listed["id"], listed["files"]) == (made["id"], ["code.py"])
    pipeline = lab.client.get(f"/api/v1/pipelines/{shown.pipeline_id}").raise_for_status()
    assert "code.py" not in pipeline.text  # others see pipelines


def test_tests_of_the_author_run_before_and_after(lab: Lab) -> None:
    tests = {"entry_point": "f", "code": "def check(candidate):\n    assert candidate('/') == '/'\n"}
    measured = lab.run(code="def f(x):\n    return x\n", language="python", tests=tests)["quality"][
        "measured"
    ]["tests"]
    assert measured["before"]["passed"] is True
    # SAFE starts a process, which the sandbox does not let it.
    assert measured["after"]["passed"] is False


def test_the_same_key_is_the_same_submission_and_counts_once(lab: Lab) -> None:
    first, again = lab.submit("k1"), lab.submit("k1")
    assert first["id"] == again["id"]
    other = lab.client.post(f"{CODE}/submissions", json={"code": SAFE}, headers={"idempotency-key": "k1"})
    assert error_of(other)[:2] == (409, "conflict")
    with lab.world.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(CodeSubmission)) == 1
        assert session.scalar(select(Meter.used).where(Meter.name.like("%/code/day"))) == 1


def test_a_cancelled_submission_goes_no_further(lab: Lab) -> None:
    made = lab.submit()
    cancelled = lab.client.post(f"{CODE}/submissions/{made['id']}/cancel").json()
    run_all(lab.world)
    assert cancelled["state"] == lab.show(made["id"])["state"] == "cancelled"
    assert lab.upstream.seen == []
    with lab.client.stream("GET", f"{CODE}/submissions/{made['id']}/events") as told:
        assert "event: end" in told.read().decode()


def test_dead_letters_are_retried_or_deleted_with_all_that_they_hold(lab: Lab) -> None:
    lab.upstream.on("m", table({**GOOD, "quality": "nonsense"}))
    made = lab.submit("k1")
    path = f"{CODE}/submissions/{made['id']}"
    assert error_of(lab.client.delete(path))[:2] == (409, "conflict")
    run_all(lab.world)
    assert lab.show(made["id"])["state"] == "failed"
    lab.upstream.on("m", table(GOOD))
    assert lab.client.post(f"{path}/retry").json()["state"] == "running"
    run_all(lab.world)
    assert [step["state"] for step in lab.show(made["id"])["steps"]] == ["succeeded"] * 3
    asked = [step_of(seen) for seen in lab.upstream.seen]
    assert (asked.count("forensic"), asked.count("quality")) == (1, 4)  # what had succeeded stays
    assert lab.client.delete(path).json()["state"] == "succeeded"
    assert lab.client.get(path).status_code == 404
    again = lab.client.post(f"{CODE}/submissions", json={"code": WEAK}, headers={"idempotency-key": "k1"})
    assert (again.status_code, "was deleted" in again.text) == (409, True)


def test_others_submissions_are_not_there(lab: Lab) -> None:
    made = lab.submit()
    with lab.world.database.transaction() as session:
        identity.create_account(session, "eve", Role.VIEWER, SYSTEM)
        _, key = identity.create_key(session, "eve", "k", SYSTEM)
    eve = {"authorization": f"Bearer {key}"}
    assert lab.client.get(f"{CODE}/submissions/{made['id']}", headers=eve).status_code == 404
    assert lab.client.get(f"{CODE}/submissions", headers=eve).json()["data"] == []


# --- limits and input -------------------------------------------------------------------------------------


def test_limits_by_account_hold(lab: Lab) -> None:
    with lab.world.database.transaction() as session:
        account = identity.find_account(session, "operator")
        limits.set_limits(session, account, {"code_submissions_per_day": 1, "code_bytes": 80}, SYSTEM)
    lab.submit()
    assert error_of(lab.client.post(f"{CODE}/submissions", json={"code": WEAK}))[:2] == (429, "limit_reached")
    large = lab.client.post(f"{CODE}/submissions", json={"code": WEAK * 3})
    assert large.status_code == 413
    assert "80 are taken" in large.text
    with lab.world.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 3  # what was refused left nothing


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({}, 422, "no code given"),
    ({"code": ""}, 422, "is empty"),
    ({"code": " \n"}, 422, "is empty"),
    ({"code": "a", "patch": "b"}, 422, "code and patch given"),
    ({"code": "\x00\x01\x02ELF", "language": "c"}, 422, "is binary"),
    ({"code": "x = '\ud800'", "language": "python"}, 422, "as a unicode string"),
    ({"code": "Dear all,"}, 422, "cannot be told"),
    ({"code": "x", "language": "cobol"}, 422, "'cobol' is not known"),
    ({"code": "x = 1\n" * 20_000, "language": "python"}, 413, "100000 are taken"),
    ({"files": [{"name": "../a.py", "text": "x = 1"}]}, 422, "cannot be the name"),
    ({"files": [{"name": "/etc/a.py", "text": "x = 1"}]}, 422, "cannot be the name"),
    ({"files": [{"name": "a\\..\\b.py", "text": "x = 1"}]}, 422, "cannot be the name"),
    ({"files": [{"name": "a.py\n", "text": "x = 1"}]}, 422, "cannot be the name"),
    ({"files": [{"name": "a.py", "text": "x = 1"}] * 2}, 422, "same name"),
    ({"patch": "no diff"}, 422, "no unified diff"),
    (
        {"code": "x = 1", "language": "python", "tests": {"code": "c", "entry_point": "f", "file": "b"}},
        422,
        "tests.file",
    ),
]


def test_what_cannot_be_analysed_is_refused_and_leaves_nothing(lab: Lab) -> None:
    for body, status, words in WRONG:
        response = lab.client.post(
            f"{CODE}/submissions", content=json.dumps(body), headers={"content-type": "application/json"}
        )
        assert (response.status_code, words in response.text) == (status, True), response.text
    assert claim(lab.world.database) == []


def test_a_patch_is_looked_at_by_what_it_leaves(lab: Lab) -> None:
    patch = "--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,3 @@\n import os\n-x = 1\n+os.system('a' + x)\n+y = 2\n"
    lab.upstream.on("m", raw(b"{}"))
    shown = lab.run(patch=patch)
    assert shown["files"] == ["app.py"]
    assert {(each["line_start"], each["cwe"]) for each in shown["findings"]} >= {(2, "CWE-78")}


def test_no_line_of_a_patch_hides_those_after_it() -> None:
    head = "--- a/app.py\n+++ b/app.py\n"
    (file,) = from_patch(head + "@@ -1 +1,4 @@\n a = 1\n+++ b\n+os.system(x)\n+z = 2\n")
    assert file.text == "a = 1\n++ b\nos.system(x)\nz = 2\n"
    (file,) = from_patch(head + "@@ -1,2 +1,2 @@\n \x0cint q;\n-a\n+b\n\\ No newline at end of file\n")
    assert file.text == "\x0cint q;\nb\n"
    with pytest.raises(Invalid, match="within a hunk"):
        from_patch(head + "@@ -1,2 +1,2 @@\n a\nb\n")


def test_a_difference_counts_lines_as_patch_does() -> None:
    before, after = ({"name": "a.c", "text": f"int a;\x0cint {name};\n"} for name in "bc")
    assert unified([before], [after]).splitlines(keepends=False)[2:3] == ["@@ -1 +1 @@"]
    assert "No newline" not in unified([before], [after])


# --- models -----------------------------------------------------------------------------------------------

BROKEN = '{"summary": "x", "findings": ['


NONSENSE: list[tuple[Any, str]] = [
    ("", "it is empty"),
    ("I cannot help with that.", "no JSON object"),
    (BROKEN, "breaks off"),
    ({"summary": "x", "findings": [{"title": "t"}]}, "not by the schema at findings.0."),
    ({"findings": "all"}, "not by the schema"),
]


def test_nonsense_is_asked_for_again_twice_then_told_and_the_facts_stay(lab: Lab) -> None:
    for said, problem in NONSENSE:
        lab.upstream.seen.clear()
        lab.upstream.on("m", table({**GOOD, "forensic": said}))
        shown = lab.run()
        assert (shown["state"], shown["quality"], shown["rebuilt"]) == ("failed", None, None)
        assert problem in shown["error"]
        assert [step["state"] for step in shown["steps"]] == ["failed", "cancelled", "cancelled"]
        assert {tuple(each["sources"]) for each in shown["findings"]} >= {("bandit", "ruff")}
        assert [problem in each["problem"] for each in lab.answers(shown["id"])] == [True] * 3
        assert problem in str(lab.upstream.seen[1].body["messages"])


def test_an_answer_that_is_repaired_is_used(lab: Lab) -> None:
    fenced = f"Here it is:\n```json\n{json.dumps(GOOD['forensic'])}\n```\nDone."
    half = table({**GOOD, "forensic": BROKEN})
    lab.upstream.on("m", half, table({**GOOD, "forensic": fenced}), table(GOOD))
    shown = lab.run()
    assert shown["state"] == "succeeded"
    assert [bool(each["problem"]) for each in lab.answers(shown["id"])] == [True, False, False, False]


NO_ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"choices": [{"message": {"content": "{"}, "finish_reason": "length"}]}, "cut off"),
    ({"choices": [{"message": {"content": "", "refusal": "no"}, "finish_reason": "stop"}]}, "refuses"),
    ({"choices": []}, "no message"),
]


def test_a_model_that_loops_or_refuses_is_told(lab: Lab) -> None:
    for body, problem in NO_ANSWERS:
        lab.upstream.on("m", raw(json.dumps(body).encode()))
        assert problem in lab.run()["error"]


NO_CODE = [
    ("other.py", SAFE, "exactly the 1 submitted files"),
    ("code.py", "def f(:\n", "does not parse"),
    ("code.py", " ", "is empty that was not"),
    ("code.py", "x = 1\n" * 9000, "far more than the original's"),
]


def test_rebuilt_code_that_is_none_is_never_a_result(lab: Lab) -> None:
    for name, text, problem in NO_CODE:
        lab.upstream.on("m", table({**GOOD, "rebuild": {"files": [{"name": name, "text": text}]}}))
        shown = lab.run()
        assert (shown["state"], shown["rebuilt"], shown["diff"]) == ("failed", None, None)
        assert problem in shown["error"]
        assert shown["dossier"] is not None


def test_an_outage_is_followed_by_the_fallback_and_else_by_another_try(lab: Lab) -> None:
    away = says(503, error("overloaded"))
    lab.upstream.on("m", away)
    waiting = lab.run()
    assert (waiting["state"], waiting["steps"][0]["state"]) == ("running", "queued")
    assert read_job(lab.world.database, waiting["steps"][0]["job_id"]).run_at is not None
    assert any(each["cwe"] == "CWE-78" for each in waiting["findings"])
    lab.configure(fallback="spare")
    lab.upstream.on("spare", table(GOOD))
    assert {step["model"] for step in lab.run()["steps"]} == {"spare"}
    unknown = says(404, error("no such model", "invalid_request_error"))
    lab.configure(fallback=None)
    lab.upstream.on("m", unknown)
    assert "404, no such model" in lab.run()["error"]


def test_an_answer_that_was_kept_is_not_asked_for_twice(lab: Lab) -> None:
    """The worker dies between the answer and the job's end."""
    made = lab.submit()
    run_all(lab.world)
    asked = len(lab.upstream.seen)
    with lab.world.database.transaction() as session:
        job = session.scalars(select(Job).where(Job.step == "quality")).one()
        job.state, job.result, job.finished_at = JobState.QUEUED, None, None
    run_all(lab.world)
    assert lab.show(made["id"])["steps"][2]["state"] == "succeeded"
    assert len(lab.upstream.seen) == asked


# --- experiments ------------------------------------------------------------------------------------------


def test_experiments_delay_steps_lose_nothing_and_end(lab: Lab) -> None:
    admin = {"authorization": f"Bearer {lab.world.add_key(Role.ADMIN)}"}
    path = f"{CODE}/experiments"
    assert lab.client.post(path, json={"fault": "rate_limits"}).status_code == 403  # an operator may not
    made = lab.submit()
    for fault, words in (
        ("provider_outage", "503, by experiment"),
        ("rate_limits", "429"),
        ("database_away", "away"),
    ):
        started = lab.client.post(path, json={"fault": fault, "seconds": 60}, headers=admin).json()
        FAULTS.forget()
        run_all(lab.world)
        step = lab.show(made["id"])["steps"][0]
        assert (step["state"], words in step["error"]) == ("queued", True)
        lab.client.post(f"{path}/{started['id']}/stop", headers=admin).raise_for_status()
        with lab.world.database.transaction() as session:  # not to wait for the backoff
            session.get_one(Job, uuid.UUID(step["job_id"])).run_at = clock(session)
    slow = {"fault": "slow_answers", "delay_s": 0.01, "seconds": 60}
    lab.client.post(path, json=slow, headers=admin).raise_for_status()
    FAULTS.forget()
    run_all(lab.world)
    assert lab.show(made["id"])["state"] == "succeeded"
    listed = lab.client.get(path).json()["data"]
    assert [bool(each["stopped_at"]) for each in listed] == [False, True, True, True]


def test_experiments_are_refused_in_production(world: World) -> None:
    settings = Settings(home=world.home, production=True)
    with TestClient(app_of(Parts(settings=settings, database=world.database))) as client:
        headers = {"authorization": f"Bearer {world.add_key(Role.ADMIN)}"}
        refused = client.post(f"{CODE}/experiments", json={"fault": "rate_limits"}, headers=headers)
    assert error_of(refused)[:2] == (403, "denied")


# --- versions of steps ------------------------------------------------------------------------------------


def test_a_step_is_edited_while_it_runs_and_rolled_back(lab: Lab) -> None:
    body = {"model": "m", "prompt": "Look for secrets.", "params": {"temperature": 0.1}, "note": "secrets"}
    second = lab.client.put(f"{CODE}/steps/forensic", json=body).json()
    assert (second["version"], second["active"]) == (2, True)
    assert lab.client.put(f"{CODE}/steps/forensic", json=body).json()["version"] == 2
    shown = lab.run()
    first = next(seen for seen in lab.upstream.seen if step_of(seen) == "forensic")
    assert first.body["messages"][0]["content"].startswith("Look for secrets.")
    assert first.body["temperature"] == 0.1
    assert lab.answers(shown["id"])[0]["step_version"] == 2
    used = lab.client.post(f"{CODE}/steps/forensic/use", json={"version": 1}).json()
    assert (used["version"], used["active"]) == (1, True)
    versions = lab.client.get(f"{CODE}/steps/forensic/versions").json()["data"]
    assert [(each["version"], each["active"]) for each in versions] == [(2, False), (1, True)]
    assert lab.client.post(f"{CODE}/steps/forensic/use", json={"version": 9}).status_code == 404
    wrong = {"model": "m", "params": {"messages": []}}
    assert "cannot hold messages" in lab.client.put(f"{CODE}/steps/forensic", json=wrong).text


def test_a_canary_is_given_to_its_share_and_measured_beside_the_version_in_use(lab: Lab) -> None:
    kept = {"model": "other", "use": False}
    assert lab.client.put(f"{CODE}/steps/rebuild", json=kept).json()["active"] is False
    unsafe = {**GOOD, "rebuild": {"files": [{"name": "code.py", "text": WEAK}]}}
    lab.upstream.on("other", table(unsafe))
    canary = f"{CODE}/steps/rebuild/canary"
    assert lab.client.put(canary, json={"version": 7}).status_code == 404
    assert lab.client.put(canary, json={"version": 1}).status_code == 409
    lab.client.put(canary, json={"version": 2, "share": 0.5}).raise_for_status()
    ids = [lab.submit()["id"] for _ in range(6)]
    run_all(lab.world)
    tried = [id_ for id_ in ids if code_steps.share_of("rebuild", uuid.UUID(id_)) < 0.5]
    assert [id_ for id_ in ids if lab.show(id_)["steps"][1]["model"] == "other"] == tried
    found = {each["version"]: each for each in lab.client.get(canary).json()["data"]}
    assert sum(each["submissions"] for each in found.values()) == 6
    for version, share in ((1, 1.0), (2, 0.0)):
        if version in found:
            assert (found[version]["resolved_share"], found[version]["parse_share"]) == (share, 1.0)
    lab.client.put(canary, json={"version": None}).raise_for_status()
    assert lab.run()["steps"][1]["model"] == "m"


def test_without_a_model_nothing_is_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "configure", lambda *_: None)
    with laboratory(world, monkeypatch) as lab:
        response = lab.client.post(f"{CODE}/submissions", json={"code": WEAK})
        assert error_of(response)[:2] == (409, "conflict")
        assert "raymill code set forensic" in response.text
