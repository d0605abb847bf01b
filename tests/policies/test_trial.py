"""Rules that somebody wrote: compiled and tested in a process of their own, and explained."""

from __future__ import annotations

import pytest

from raymill.policies.engine import RULES, read_rules
from raymill.policies.errors import Invalid
from raymill.policies.trial import run, try_rules

WITH = 'package raymill.promotion\n\nimport rego.v1\n\ntest_a if { allow with input as {"version": 4} }\n'


def test_the_rules_that_are_shipped_pass_their_tests_in_rego() -> None:
    tests = run(read_rules(RULES), []).tests
    assert [each.message for each in tests if not each.passed] == []
    assert len(tests) == 5


def test_rules_that_end_their_process_are_an_error_and_nothing_more() -> None:
    with pytest.raises(Invalid, match="end the engine that evaluates them"):
        try_rules({**read_rules(RULES), "with.rego": WITH})


def test_a_test_that_fails_says_what_was_answered() -> None:
    tests = {
        "a_test.rego": 'package a_test\n\ntest_all := {"input": {}, "allow": true}\n\ntest_none := 3\n',
        "b_test.rego": "package b_test\n",
    }
    found = {each.name: each for each in run({**read_rules(RULES), **tests}, []).tests}
    assert found["test_all"].message.startswith("allow is false: dataset_digest is missing")
    assert found["test_none"].message.startswith("no test: give an object")
    assert not found["b_test.rego"].passed


def test_each_sentence_is_led_back_to_its_rule_and_what_it_looked_at() -> None:
    asked = {
        "to": "production",
        "require": {"heldout": {"at_least": 0.9}, "other": {"at_most": 1}},
        "metrics": {"heldout": 0.5, "other": 0.5},
        "evaluated": True,
        "signed": True,
        "frozen": True,
        "dataset_digest": "0f",
    }
    files = read_rules(RULES)
    trial = run(files, [asked])
    (finding,) = trial.findings
    assert (finding.sentence,) == trial.decisions[0].reasons
    assert finding.looked_at["metrics"] == {"heldout": 0.5}
    assert finding.looked_at["require"] == {"heldout": {"at_least": 0.9}}
    file, _, line = finding.rule.partition(":")
    assert files[file].splitlines()[int(line) - 1].startswith("objections contains")


def test_rules_see_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMILL_TARGET_KEY_PROBE", "sk-probe")
    rule = "package raymill.promotion\n\nrefused contains s if { s := opa.runtime().env.RAYMILL_TARGET_KEY_PROBE }\n"
    files = {**read_rules(RULES), "house.rego": rule}
    (decision,) = try_rules(files, [{"to": "production", "require": {}}]).decisions
    assert not decision.allowed
    assert "sk-probe" not in str(decision)
