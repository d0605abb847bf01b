"""Rules that somebody wrote, tried in a process of their own.

rego-cpp (1.5.2) ends the process for some rules, `with input as` in a rule over a set among them, instead of saying what is
wrong. So rules are compiled, tested and asked in a child; only those that Raymill ships are asked in this process.

A test is a rule of a `*_test.rego` file whose name begins with `test_`. It gives a question and the answer expected:

    test_a_low_score_is_refused := {"input": {...}, "allow": false, "refused": ["..."]}

`refused` may be left out: then any reasons do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regopy import Interpreter, LogLevel

from raymill.policies.engine import TESTS, UNREADABLE, Decision, PolicyEngine
from raymill.policies.errors import Invalid
from raymill.policies.explain import Finding, explain

ENVIRONMENT = {"PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
"""Of that process, and nothing of ours: rules can read it (`opa.runtime`), and say it in their reasons."""

TIMEOUT_S = 60.0
PACKAGE = re.compile(r"^package\s+([\w.]+)", re.MULTILINE)
TEST = re.compile(r"^(test_\w+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class RuleOutcome:
    """How a test of rules went."""

    name: str
    passed: bool
    message: str = ""
    """What was answered in place of what was expected."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What rules said."""

    tests: tuple[RuleOutcome, ...]
    decisions: tuple[Decision, ...]
    """To the questions, in their order."""

    findings: tuple[Finding, ...]
    """What they have against the first question, by rule."""


def try_rules(files: Mapping[str, str], questions: Sequence[Mapping[str, Any]] = ()) -> Trial:
    """Compile rules, run their tests, ask them `questions`, and have the answer to the first one explained.

    Raises:
        Invalid: they do not compile, take too long, or end the process that they run in.
    """
    asked = json.dumps({"files": dict(files), "questions": list(questions)})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "raymill.policies.trial"],
            input=asked,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=ENVIRONMENT,
        )
    except subprocess.TimeoutExpired:
        raise Invalid(f"the rules took more than {TIMEOUT_S:.0f} s: make them simpler") from None
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2][:200] or f"exit {done.returncode}"
        raise Invalid(f"the rules end the engine that evaluates them ({said}): write them without `with`")
    answer = json.loads(done.stdout)
    if "problem" in answer:
        raise Invalid(answer["problem"])
    return Trial(
        tests=tuple(RuleOutcome(**each) for each in answer["tests"]),
        decisions=tuple(
            Decision(**{**each, "reasons": tuple(each["reasons"])}) for each in answer["decisions"]
        ),
        findings=tuple(Finding(**each) for each in answer["findings"]),
    )


def run(files: Mapping[str, str], questions: Sequence[Mapping[str, Any]]) -> Trial:
    """As `try_rules`, in this process."""
    engine = PolicyEngine(files)
    tests = [
        _result(engine, name, case)
        for file, source in sorted(files.items())
        if file.endswith(TESTS)
        for name, case in _cases(file, source).items()
    ]
    decisions = tuple(engine.decide(each) for each in questions)
    findings = explain(files, decisions[0].input) if decisions else ()
    return Trial(tests=tuple(tests), decisions=decisions, findings=findings)


def _cases(file: str, source: str) -> dict[str, Any]:
    """Test -> what its rule gives; None: nothing."""
    package = PACKAGE.search(source)
    names = list(dict.fromkeys(TEST.findall(source)))
    if package is None or not names:
        return {file: None}
    interpreter = Interpreter()
    interpreter.log_level = LogLevel.NONE
    found: dict[str, Any] = {}
    try:
        interpreter.add_module(file, source)
        interpreter.set_input_term("{}")
        for name in names:
            output = interpreter.query(f"data.{package[1]}.{name}")
            found[name] = output.results[0].expressions[0] if output.results else None
    except UNREADABLE as error:
        raise Invalid(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return found


def _result(engine: PolicyEngine, name: str, case: Any) -> RuleOutcome:
    if (
        not isinstance(case, dict)
        or not {"input", "allow"} <= case.keys()
        or not isinstance(case["input"], dict)
    ):
        return RuleOutcome(
            name=name, passed=False, message="no test: give an object with input, allow and perhaps refused"
        )
    decision = engine.decide(case["input"])
    expected = (case["allow"], sorted(case.get("refused", decision.reasons)))
    if (decision.allowed, sorted(decision.reasons)) == expected:
        return RuleOutcome(name=name, passed=True)
    said = "; ".join(decision.reasons) or "nothing against it"
    return RuleOutcome(name=name, passed=False, message=f"allow is {str(decision.allowed).lower()}: {said}")


def _main() -> None:
    asked = json.load(sys.stdin)
    try:
        trial = run(asked["files"], asked["questions"])
    except Invalid as error:
        json.dump({"problem": str(error)}, sys.stdout)
        return
    json.dump(dataclasses.asdict(trial), sys.stdout)


if __name__ == "__main__":
    _main()
