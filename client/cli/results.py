"""One line about what a finished step made. Knows the results' keys, not how they came about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raymill.client.cli.given import dollars
from raymill.client.types import Job, JsonObject
from raymill.registry.sizes import size

HIDDEN = frozenset({"digest", "artifact", "adapter", "seconds", "format"})


def summary(job: Job) -> str:
    """The numbers that a person would ask for first; the error when the step failed."""
    if job.error and job.state != "succeeded":
        return " ".join(job.error.split())
    return SUMMARIES.get(job.kind, _scalars)(job.result) if job.result else ""


def _dataset(result: JsonObject) -> str:
    dropped = (result.get("duplicates") or {}).get("dropped")
    return _join(
        f"{result.get('train_rows', 0):,} training rows, {result.get('test_rows', 0):,} held out",
        f"{dropped:,} duplicates dropped" if dropped else "",
    )


def _traffic(result: JsonObject) -> str:
    return f"{result.get('rows', 0):,} rows of {result.get('requests', 0):,} requests"


def _base(result: JsonObject) -> str:
    return _join(
        _count(result, "parameters"), _count(result, "tokens"), _number(result, "final_loss", "loss")
    )


def _train(result: JsonObject) -> str:
    rate = f"{result['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in result else ""
    return _join(_number(result, "final_loss", "loss"), _count(result, "steps"), rate)


def _tune(result: JsonObject) -> str:
    search = result.get("search", {})
    best = search.get("best", {})
    tried = f"best of {search.get('trials', '?')} is trial {best.get('trial', '?')}"
    return _join(tried, _number(best, "metric", str(search.get("metric", "loss"))), _train(result))


def _evaluate(result: JsonObject) -> str:
    return scores(result.get("metrics", {}))


def _target(result: JsonObject) -> str:
    usage = result.get("usage")
    return _join(scores(result.get("metrics", {})), used(usage) if usage else "")


def _judge(result: JsonObject) -> str:
    pairwise = result.get("kind") == "pairwise"
    rate = result.get("win_rate" if pairwise else "score")
    low, high = result.get("low"), result.get("high")
    known = None not in (rate, low, high)
    bias, agreed = result.get("position_bias") or {}, result.get("agreement") or {}
    kappa = agreed.get("kappa")
    return _join(
        f"{'win rate' if pairwise else 'score'} {rate:.4g} ({low:.4g} to {high:.4g})" if known else "",
        f"{result['wins']} wins, {result['losses']} losses, {result['ties']} ties" if pairwise else "",
        str(result.get("verdict", "")) if pairwise else "",
        f"position bias {bias['rate']:.3g}" if bias.get("rate") is not None else "",
        f"{result['failures']} failures" if result.get("failures") else "",
        f"agrees with {agreed['source']} on {agreed['agreement']:.3g} of {agreed['examples']}"
        if agreed
        else "",
        f"kappa {kappa:.3g}" if kappa is not None else "",
        used(result.get("usage") or {}),
    )


def used(usage: JsonObject) -> str:
    """`120 answers, 2 refused, 4,100 tokens in, 900 out, $0.0123`."""
    cost = usage.get("cost_micro_usd")
    return _join(
        f"{usage.get('answers', 0):,} answers",
        f"{usage['refused']:,} refused" if usage.get("refused") else "",
        f"{usage.get('prompt_tokens', 0):,} tokens in",
        f"{usage.get('completion_tokens', 0):,} out",
        "" if cost is None else f"${dollars(cost)}",
    )


def _quantize(result: JsonObject) -> str:
    return _join(*(_file(file) for file in result.get("files", [])))


def scores(metrics: JsonObject) -> str:
    """`heldout_exact_match 0.985`; for quantized files `Q8_0: heldout_exact_match 0.98; Q4_K_M: …`."""
    nested = {name: value for name, value in metrics.items() if isinstance(value, dict)}
    flat = ", ".join(f"{name} {_plain(value)}" for name, value in metrics.items() if name not in nested)
    return "; ".join(filter(None, [flat, *(f"{name}: {scores(value)}" for name, value in nested.items())]))


def _file(file: JsonObject) -> str:
    parity = file.get("parity") or {}
    same = f", {parity['same']} of {parity['prompts']} answers the same" if "same" in parity else ""
    apart = (file.get("verification") or {}).get("kl_mean")
    diverges = "" if apart is None else f", KL {apart:.2g}"
    return f"{file.get('type')} {size(int(file.get('size_bytes', 0)))}{same}{diverges}"


def _promotion(result: JsonObject) -> str:
    if result.get("canary"):
        tries = f"version {result['version']} tries itself on a share of {result['alias']}"
        return _join("allowed", tries, f"`raymill promotion show {result['promotion_id']}`")
    if result.get("pending"):
        asked = f"version {result['version']} waits for approvals to become {result['alias']}"
        return _join("allowed", asked, f"`raymill promotion approve {result['promotion_id']}`")
    verdict = "allowed" if result.get("allowed") else "refused"
    reasons = "; ".join(str(reason) for reason in result.get("reasons", []))
    moved = (
        f"{result['alias']} is version {result['version']}" if {"alias", "version"} <= result.keys() else ""
    )
    return _join(verdict, reasons or moved)


def _scalars(result: JsonObject) -> str:
    return _join(*(f"{key} {_plain(value)}" for key, value in result.items() if _is_shown(key, value)))


def _count(result: JsonObject, key: str) -> str:
    return f"{result[key]:,} {key}" if isinstance(result.get(key), int) else ""


def _number(result: JsonObject, key: str, name: str) -> str:
    return f"{name} {_plain(result[key])}" if isinstance(result.get(key), int | float) else ""


def _is_shown(key: str, value: Any) -> bool:
    return key not in HIDDEN and isinstance(value, str | int | float | bool)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


SUMMARIES: dict[str, Callable[[JsonObject], str]] = {
    "dataset": _dataset,
    "traffic": _traffic,
    "pretrain": _base,
    "import_base": _base,
    "train": _train,
    "tune": _tune,
    "evaluate": _evaluate,
    "evaluate_target": _target,
    "judge": _judge,
    "quantize": _quantize,
    "compress": _quantize,
    "promote": _promotion,
}
"""Kind of job -> what is told of its result; for other kinds the plain values."""
