"""Canaries: prompts with known answers that a served version is asked, and how its scores stand against earlier ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np

from raymill.cluster.context import JsonObject
from raymill.evaluate.exact_match import doc_hash, is_exact
from raymill.evaluate.prompts import Row
from raymill.evaluate.token_f1 import token_f1
from raymill.policies.drift import Severity, severity_of_drop
from raymill.policies.errors import Invalid, Unavailable
from raymill.policies.statistics import Comparison, compare, score_interval
from raymill.registry.drift_config import Canary
from raymill.serve.llm.answer import Failure, Reply
from raymill.serve.llm.spec import ENGINE

AT_ONCE = 4
ANSWER_S = 300.0

_STARTING = threading.Lock()

Ask = Callable[[str, JsonObject], Reply]
"""Serve application, body of a chat request -> the answer."""

Scores = dict[str, float]
"""Hash of a row -> its score."""


def ask_engine() -> Ask:
    """By Serve handle: no HTTP, no key, and nothing of it in anybody's usage."""
    handles: dict[str, Any] = {}

    def ask(application: str, body: JsonObject) -> Reply:
        try:
            with _STARTING:
                if application not in handles:
                    handles[application] = _handle_of(application)
            reply: Reply = handles[application].remote(body).result(timeout_s=ANSWER_S)
        except Exception as error:
            if not is_away(error):
                raise
            raise Unavailable(f"{application} does not answer right now: {error}") from error
        return reply

    return ask


def is_away(error: Exception) -> bool:
    """Whether an engine could not be asked, or did not answer in time; else it failed at the question, and would again."""
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import RayServeException

    if isinstance(error, RayServeException | ConnectionError | TimeoutError):
        return True
    return isinstance(error, RayError) and not isinstance(error, RayTaskError)


def _handle_of(application: str) -> Any:
    """Raises Unavailable: there is no such application."""
    from ray import serve

    try:
        handle = serve.get_deployment_handle(ENGINE, application)  # one in each process
    except KeyError as error:
        raise Unavailable(f"{application} is not served right now: see `raymill status`") from error
    # The service's handles work in the event loop of who asks; threads have none. Ray has no public way.
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=True)
    return handle.options(method_name="chat", request_serialization="pickle", response_serialization="pickle")


def ask_all(
    canary: Canary,
    rows: Sequence[Row],
    application: str,
    model: str,
    ask: Ask,
    check: Callable[[], None],
) -> Scores:
    """Ask each row, greedily. Of equal rows one is asked.

    Args:
        model: exact name of the version, such as support-triage@3.
        check: called before each question, and may raise.

    Raises:
        Unavailable: the engine does not answer.
        Invalid: it refuses a canary.
    """
    by_hash = {doc_hash(row): row for row in rows}

    def score(row: Row) -> float:
        check()
        body: JsonObject = {
            "model": model,
            "messages": row.messages,
            "max_tokens": canary.max_new_tokens,
            "temperature": 0,
        }
        if row.tools:
            body["tools"] = list(row.tools)
        said = text_of(ask(application, body), row)
        if canary.measure == "exact_match":
            return float(is_exact(said, row.reference))
        return token_f1(said, row.reference).f1

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return dict(zip(by_hash, threads.map(score, by_hash.values()), strict=True))


def text_of(reply: Reply, row: Row) -> str:
    """What was answered. Raises Unavailable, Invalid."""
    if isinstance(reply, Failure):
        text = f"canary {row.index + 1} was not answered ({reply.status}): {reply.message}"
        raise Invalid(text) if 400 <= reply.status < 500 else Unavailable(text)
    message = json.loads(reply)["choices"][0]["message"]
    return str(message.get("content") or "")


def judge(canary: Canary, scores: Scores, baseline: Scores | None) -> tuple[JsonObject, Severity, list[str]]:
    """What is told of the scores, how bad it is, and why. Only rows that both were asked are compared."""
    values = np.array(list(scores.values()), dtype=np.float64)
    told: JsonObject = {
        "measure": canary.measure,
        "prompts": len(values),
        "mean": float(values.mean()),
        "interval": list(score_interval(values)),
        "compared": None,
    }
    shared = [each for each in scores if each in (baseline or {})]
    if baseline is None or not shared:
        return told, "none", []
    found = compare(
        np.array([scores[each] for each in shared], dtype=np.float64),
        np.array([baseline[each] for each in shared], dtype=np.float64),
    )
    error = found.standard_error if len(shared) > 1 else None
    told["compared"] = asdict(found) | {"interval": list(found.interval), "standard_error": error}
    severity = severity_of_drop(found, minor=canary.minor, major=canary.major)
    return told, severity, [_tell(canary, found)] if severity != "none" else []


def _tell(canary: Canary, found: Comparison) -> str:
    low, high = found.interval
    return (
        f"canary {canary.measure} is {found.mean_a:.3f} and was {found.mean_b:.3f} "
        f"(difference {found.difference:+.3f} between {low:+.3f} and {high:+.3f}, p {found.p_value:.2g}, "
        f"{found.examples} prompts)"
    )
