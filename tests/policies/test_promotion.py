"""The promotion rules, by table and against a second opinion written in plain Python."""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.policies.engine import RULES, PolicyEngine, read_rules, shipped_rules
from raymill.policies.errors import Invalid

METRIC = "heldout_exact_match"
GOOD: dict[str, Any] = {
    "name": "support-triage",
    "version": 3,
    "to": "production",
    "require": {METRIC: {"at_least": 0.9, "at_most": 1, "not_below_base": True}},
    "require_quantized_within": {"Q8_0": 0.02},
    "metrics": {METRIC: 0.97},
    "base_metrics": {METRIC: 0.05},
    "quantized_metrics": {"Q8_0": {METRIC: 0.95}},
    "signed": True,
    "frozen": True,
    "evaluated": True,
    "dataset_digest": "0f" * 32,
}
NOT_WORSE = {METRIC: {"not_significantly_worse_than": "production"}}
WORSE = {
    "alias": "production", "version": 2, "verdict": "worse", "score": 0.905, "rival_score": 0.97,
    "difference": -0.065, "low": -0.105, "high": -0.03, "p_value": 0.00013, "examples": 200,
}  # fmt: skip
UNKNOWN = {
    "alias": "production",
    "version": 2,
    "verdict": "unknown",
    "problem": "they have no example in common",
}


@pytest.fixture(scope="module")
def engine() -> PolicyEngine:
    return shipped_rules()


@pytest.fixture(scope="module")
def pedantic() -> PolicyEngine:
    """Looks for objections where all is satisfied, too."""
    rule = "refused contains sentence if {\n\tsome sentence in objections\n}\n"
    more = f"package raymill.promotion\n\nimport rego.v1\n\n{rule}"
    return PolicyEngine(read_rules(RULES) | {"pedantic.rego": more})


def test_a_version_that_meets_every_requirement_is_allowed_and_the_decision_can_be_checked(
    engine: PolicyEngine,
) -> None:
    decision = engine.decide(GOOD)
    assert (decision.allowed, decision.reasons) == (True, ())
    assert decision.input == GOOD
    text = json.dumps(GOOD, sort_keys=True, separators=(",", ":"))
    assert decision.input_digest == hashlib.sha256(text.encode()).hexdigest()
    rules = hashlib.sha256((RULES / "promotion.rego").read_bytes()).hexdigest()
    assert decision.bundle_digest == hashlib.sha256(f"{rules}  promotion.rego\n".encode()).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        {"require": {METRIC: {"at_least": 0.97}}},  # the bound itself is enough
        {"require": {METRIC: {"at_most": 0.97}}},
        {"require": {METRIC: {"at_least": 0.5, "not_below_base": False}}, "base_metrics": {}},
        {"base_metrics": {METRIC: 0.97}},
        {"require_quantized_within": None, "quantized_metrics": {}},
        {"require_quantized_within": {}, "quantized_metrics": None},
        {"metrics": {METRIC: 0.97, "other": math.nan}},  # nobody asked for it
        {"metrics": {METRIC: 1}, "quantized_metrics": {"Q8_0": {METRIC: 1.0}}},
        {"require": NOT_WORSE, "comparisons": {METRIC: WORSE | {"verdict": "better"}}},
        {"require": NOT_WORSE, "comparisons": {METRIC: WORSE | {"verdict": "no evidence"}}},
        {"require": NOT_WORSE, "comparisons": {METRIC: {"alias": "production", "verdict": "no rival"}}},
        {"require": {METRIC: {"at_least": 0.9, "not_significantly_worse_than": False}}},
    ],
)
def test_allowed(engine: PolicyEngine, changed: dict[str, Any]) -> None:
    assert engine.decide(GOOD | changed).reasons == ()
    assert engine.decide(GOOD | changed).allowed


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"metrics": {METRIC: 0.42}, "require_quantized_within": {}},
            f"{METRIC} is 0.42, production requires at least 0.9",
        ),
        ({"require": {METRIC: {"at_most": 0.5}}}, f"{METRIC} is 0.97, production requires at most 0.5"),
        (
            {"base_metrics": {METRIC: 0.98}},
            f"{METRIC} is 0.97, production requires at least the 0.98 of its base",
        ),
        (
            {"base_metrics": {}},
            f"{METRIC} of the base is missing, production requires a finite number",
        ),
        (
            {"metrics": {}, "require_quantized_within": None},
            f"{METRIC} is missing, production requires a finite number",
        ),
        ({"metrics": {METRIC: math.nan}}, f"{METRIC} is nan, production requires a finite number"),
        ({"metrics": {METRIC: math.inf}}, f"{METRIC} is inf, production requires a finite number"),
        ({"metrics": {METRIC: None}}, f"{METRIC} is null, production requires a finite number"),
        ({"metrics": {METRIC: True}}, f"{METRIC} is true, production requires a finite number"),
        ({"metrics": {METRIC: "0.97"}}, f"{METRIC} is 0.97, production requires a finite number"),
        ({"metrics": {METRIC: [0.97]}}, f"{METRIC} is a list, production requires a finite number"),
        (
            {"require": {METRIC: {"at_leest": 0.1}}},
            f"{METRIC} has at_leest, which no rule knows: use at_least, at_most, not_below_base or not_significantly_worse_than",
        ),
        (
            {"require": {METRIC: {"at_least": 0.1, "exactly": False}}},
            f"{METRIC} has exactly, which no rule knows: use at_least, at_most, not_below_base or not_significantly_worse_than",
        ),
        (
            {"require": {METRIC: {}}},
            f"{METRIC} has no bound: give it at_least, at_most, not_below_base or not_significantly_worse_than",
        ),
        (
            {"require": {METRIC: {"not_below_base": False}}},
            f"{METRIC} has no bound: give it at_least, at_most, not_below_base or not_significantly_worse_than",
        ),
        ({"require": {METRIC: {"at_least": "0.1"}}}, f"at_least of {METRIC} is 0.1: give it a finite number"),
        ({"require": {METRIC: {"at_least": None}}}, f"at_least of {METRIC} is null: give it a finite number"),
        (
            {"require": {METRIC: {"at_most": math.inf}}},
            f"at_most of {METRIC} is inf: give it a finite number",
        ),
        (
            {"require": {METRIC: {"not_below_base": 1}}},
            f"not_below_base of {METRIC} is 1: give it true or false",
        ),
        (
            {"require": {METRIC: {"not_significantly_worse_than": True}}},
            f"not_significantly_worse_than of {METRIC} is true: give it an alias, such as production",
        ),
        (
            {"require": NOT_WORSE, "comparisons": {METRIC: WORSE}},
            f"{METRIC} is 0.905 against the 0.97 of version 2 (difference -0.065 between -0.105 and -0.03, "
            "p 0.00013, 200 examples), production requires it not significantly worse than production",
        ),
        (
            {"require": NOT_WORSE, "comparisons": {METRIC: UNKNOWN}},
            f"{METRIC} was not compared with production (they have no example in common), "
            "production requires it not significantly worse",
        ),
        (
            {"require": NOT_WORSE},
            f"{METRIC} was not compared with production (no comparison was made), "
            "production requires it not significantly worse",
        ),
        (
            {
                "require": NOT_WORSE,
                "comparisons": {METRIC: WORSE | {"alias": "staging", "verdict": "better"}},
            },
            f"{METRIC} was not compared with production (no comparison was made), "
            "production requires it not significantly worse",
        ),
        ({"require": {}}, "require is empty, production requires a bound on at least one metric"),
        ({"require": None}, "require is null: give it metrics with their bounds"),
        ({"require": [METRIC]}, "require is a list: give it metrics with their bounds"),
        (
            {"quantized_metrics": {"Q8_0": {METRIC: 0.9}}},
            f"{METRIC} of Q8_0 is 0.9, production requires it within 0.02 of 0.97",
        ),
        (
            {"quantized_metrics": {"Q4_K_M": {METRIC: 0.97}}},
            f"{METRIC} of Q8_0 is missing, production requires a finite number",
        ),
        (
            {"require_quantized_within": {"Q8_0": -0.1}},
            "require_quantized_within of Q8_0 is -0.1: give it a number from 0 up",
        ),
        (
            {"require_quantized_within": ["Q8_0"]},
            "require_quantized_within is a list: give it types with their distance",
        ),
        ({"signed": False}, "signed is false, production requires true"),
        ({"frozen": False}, "frozen is false, production requires true"),
        ({"evaluated": "true"}, "evaluated is true, production requires true"),
        (
            {"dataset_digest": None},
            "dataset_digest is missing, production requires a version whose data set is known",
        ),
        (
            {"dataset_digest": ""},
            "dataset_digest is missing, production requires a version whose data set is known",
        ),
        ({"to": None}, "to is missing: name the alias to move, such as production"),
        (
            {"metrics": {METRIC: 5e-324}},
            "the rules cannot judge this input (stod): check its numbers and types",
        ),
    ],
)
def test_refused_with_one_sentence(engine: PolicyEngine, changed: dict[str, Any], reason: str) -> None:
    decision = engine.decide(GOOD | changed)
    assert decision.reasons == (reason,)
    assert not decision.allowed


def test_every_fact_that_is_left_out_refuses(engine: PolicyEngine) -> None:
    needless = {"name", "version", "require_quantized_within"}
    for left_out in GOOD.keys() - needless:
        decision = engine.decide({key: value for key, value in GOOD.items() if key != left_out})
        assert not decision.allowed, left_out
        assert len(decision.reasons) == 1
    assert len(engine.decide({}).reasons) == 6


def test_every_rule_that_refuses_is_told(engine: PolicyEngine) -> None:
    asked = {"b_score": {"at_least": 0.5}, "a_loss": {"at_most": 2}}
    decision = engine.decide(
        GOOD
        | {"require": asked, "require_quantized_within": None, "metrics": {"a_loss": 2.5, "b_score": 0.25}}
    )
    assert decision.reasons == (
        "a_loss is 2.5, production requires at most 2",
        "b_score is 0.25, production requires at least 0.5",
    )


def test_threads_share_one_engine(engine: PolicyEngine) -> None:
    values = [number / 100 for number in range(80, 100)] * 10
    with ThreadPoolExecutor(8) as pool:
        decisions = pool.map(
            lambda value: (
                engine.decide(GOOD | {"metrics": {METRIC: value}, "require_quantized_within": None}).allowed
            ),
            values,
        )
    assert list(decisions) == [value >= 0.9 for value in values]


# --- a second opinion ------------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-10, 10), st.floats(-2, 2).map(lambda number: round(number, 6)))
odd: st.SearchStrategy[Any] = st.sampled_from(
    [math.nan, math.inf, -math.inf, None, True, False, "0.5", "", 'a"b\\c\n%d', [], {}, [1]]
)
values = st.one_of(numbers, numbers, numbers, odd)
names = st.sampled_from([METRIC, "arc/easy,acc", 'q"uo\\te', "größe", "%s"])
plain_bounds = st.dictionaries(
    st.sampled_from(["at_least", "at_most", "not_below_base", "at_leest", "not_significantly_worse_than"]),
    values,
)
rival_bounds = st.fixed_dictionaries(
    {"not_significantly_worse_than": st.sampled_from(["production", "staging", ""])}
)
bounds = st.one_of(plain_bounds, plain_bounds, rival_bounds)
scores = st.dictionaries(names, values)
verdicts = st.sampled_from(["better", "worse", "no evidence", "no rival", "unknown", "best", None])
compared = st.fixed_dictionaries(
    {}, optional={"alias": st.sampled_from(["production", "staging", 3]), "verdict": verdicts}
)
comparisons = st.dictionaries(names, st.one_of(compared, compared, odd))
types = st.sampled_from(["Q8_0", "Q4_K_M"])
facts = st.sampled_from([True, True, True, False, None, "true", 1])
anything = st.fixed_dictionaries(
    {
        "to": st.sampled_from(["production", "production", "production", None, 3]),
        "require": st.one_of(st.dictionaries(names, bounds, max_size=2), odd),
        "metrics": st.one_of(scores, scores, odd),
        "base_metrics": st.one_of(scores, scores, odd),
        "quantized_metrics": st.one_of(st.dictionaries(types, st.one_of(scores, odd)), odd),
        "signed": facts,
        "frozen": facts,
        "evaluated": facts,
        "dataset_digest": st.sampled_from(["ab", "ab", "ab", "", None, 7]),
    },
    optional={
        "require_quantized_within": st.one_of(st.none(), st.dictionaries(types, values), odd),
        "comparisons": st.one_of(comparisons, odd),
    },
)
near_the_bounds = st.sampled_from([0.05, 0.2, 0.89, 0.9, 0.95, 0.97, 0.99, 1, 1.01])
sound_bounds = st.fixed_dictionaries(
    {},
    optional={
        "at_least": near_the_bounds,
        "at_most": near_the_bounds,
        "not_below_base": st.booleans(),
        "not_significantly_worse_than": st.sampled_from(["production", False]),
    },
)
sound = st.fixed_dictionaries(
    {},
    optional={
        "require": st.fixed_dictionaries({METRIC: sound_bounds}),
        "metrics": st.fixed_dictionaries({METRIC: near_the_bounds}),
        "base_metrics": st.fixed_dictionaries({METRIC: near_the_bounds}),
        "quantized_metrics": st.dictionaries(types, st.fixed_dictionaries({METRIC: near_the_bounds})),
        "require_quantized_within": st.dictionaries(types, st.sampled_from([0, 0.02, 0.05, 1])),
        "comparisons": st.fixed_dictionaries(
            {METRIC: verdicts.map(lambda verdict: WORSE | {"verdict": verdict})}
        ),
    },
).map(lambda changed: GOOD | changed)
questions = st.one_of(sound, sound, anything)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def score(scores: Any, metric: str) -> float:
    value = scores.get(metric) if isinstance(scores, dict) else None
    return value if isinstance(value, int | float) and is_number(value) else math.nan  # nan fails all below


def bound_is_met(key: str, bound: Any, value: float, base: float, compared: Any) -> bool:
    if key == "not_significantly_worse_than":
        known = isinstance(compared, dict) and isinstance(bound, str) and compared.get("alias") == bound
        return bound is False or (known and compared.get("verdict") in ("better", "no evidence", "no rival"))
    if key == "not_below_base":
        return bound is False or (bound is True and value >= base)
    if key == "at_least":
        return is_number(bound) and bool(value >= bound)
    return key == "at_most" and is_number(bound) and bool(value <= bound)


def measured_well(question: dict[str, Any]) -> bool:
    require = question["require"]
    if not (isinstance(require, dict) and require):
        return False
    for metric, asked in require.items():
        value, base = score(question["metrics"], metric), score(question["base_metrics"], metric)
        if math.isnan(value) or all(bound is False for bound in asked.values()):
            return False
        comparisons = question.get("comparisons")
        compared = comparisons.get(metric) if isinstance(comparisons, dict) else None
        if not all(bound_is_met(key, bound, value, base, compared) for key, bound in asked.items()):
            return False
    return True


def quantized_well(question: dict[str, Any]) -> bool:
    within, quantized = question.get("require_quantized_within"), question["quantized_metrics"]
    if within is None:
        return True
    if not isinstance(within, dict):
        return False
    for kind, tolerance in within.items():
        scores = quantized.get(kind) if isinstance(quantized, dict) else None
        for metric in question["require"]:
            apart = abs(score(scores, metric) - score(question["metrics"], metric))
            if not (is_number(tolerance) and tolerance >= 0 and apart <= tolerance + 1e-9):
                return False
    return True


def second_opinion(question: dict[str, Any]) -> bool:
    facts = all(question[fact] is True for fact in ("signed", "frozen", "evaluated"))
    known_data = isinstance(question["dataset_digest"], str) and question["dataset_digest"] != ""
    named = isinstance(question["to"], str)
    return facts and known_data and named and measured_well(question) and quantized_well(question)


@settings(max_examples=600, deadline=None)
@given(questions)
def test_the_rules_agree_with_a_second_opinion(
    engine: PolicyEngine, pedantic: PolicyEngine, question: dict[str, Any]
) -> None:
    decision = engine.decide(question)
    assert decision.allowed == second_opinion(question), decision.reasons
    assert bool(decision.reasons) != decision.allowed
    # What is satisfied has no objection against it, though none is looked for.
    assert decision.reasons == pedantic.decide(question).reasons


@settings(max_examples=300, deadline=None)
@given(value=st.floats(), bound=st.floats(), key=st.sampled_from(["at_least", "at_most"]))
def test_no_number_whatever_slips_through(engine: PolicyEngine, value: float, bound: float, key: str) -> None:
    question = GOOD | {
        "require": {METRIC: {key: bound}},
        "metrics": {METRIC: value},
        "require_quantized_within": None,
    }
    if engine.decide(question).allowed:
        # rego-cpp compares sixteen digits.
        holds = value >= bound if key == "at_least" else value <= bound
        assert holds or math.isclose(value, bound, rel_tol=1e-15)
        assert is_number(value)
        assert is_number(bound)


@settings(max_examples=200, deadline=None)
@given(name=st.text(st.characters(codec="utf-8")))
def test_any_name_comes_back_as_it_was(engine: PolicyEngine, name: str) -> None:
    question = GOOD | {"require": {name: {"at_least": 1}}, "require_quantized_within": None, "metrics": {}}
    decision = engine.decide(question)
    assert not decision.allowed
    assert decision.reasons == (f"{name} is missing, production requires a finite number",)


# --- the rules themselves --------------------------------------------------------------------------------


def test_rules_of_ones_own_are_used_and_change_the_bundle_digest(
    tmp_path: Path, engine: PolicyEngine
) -> None:
    (tmp_path / "promotion.rego").write_bytes((RULES / "promotion.rego").read_bytes())
    (tmp_path / "friday.rego").write_text(
        'package raymill.promotion\n\nimport rego.v1\n\nrefused contains "it is Friday" if input.version == 3\n'
    )
    decision = PolicyEngine(read_rules(tmp_path)).decide(GOOD)
    assert (decision.allowed, decision.reasons) == (False, ("it is Friday",))
    assert decision.bundle_digest != engine.bundle_digest
    assert PolicyEngine(read_rules(tmp_path)).decide(GOOD | {"version": 4}).allowed


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"no \*\.rego file lies in .*: name a folder"),
        ("package raymill.promotion\n\nallow if {", "give no raymill/promotion/decision: "),
        ("package something.else\n\nx := 1\n", "give no raymill/promotion/decision: "),
    ],
)
def test_rules_that_cannot_be_used_are_refused_at_once(
    tmp_path: Path, source: str | None, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if source is not None:
        (tmp_path / "promotion.rego").write_text(source)
    with pytest.raises(Invalid, match=message) as caught:
        PolicyEngine(read_rules(tmp_path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
