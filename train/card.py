"""The card of a trained model: README.md beside the weights, as Hugging Face shows it.

Says what made the model and how it went; nothing in it changes from one making to the next, for the card is part
of the artifact. What is known only later (version, scores, signatures) the control plane adds for an export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymill.train.metrics import Point, summary

CARD = "README.md"
CURVE_ROWS = 12
WHAT = {
    "pretrain": "pre-trained on text",
    "sft": "fine-tuned on conversations",
    "tool": "fine-tuned on conversations with tool calls",
    "dpo": "tuned on pairs of answers (direct preference optimization)",
    "kto": "tuned on good and bad answers (Kahneman-Tversky optimization)",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card tells."""

    name: str
    method: str
    config: Mapping[str, Any]
    base: Mapping[str, Any] | None
    """`artifact` and `digest`; None for a model that was made from text."""

    data: Mapping[str, Any]
    """`artifact` and `digest` of the data set, or the text's sha256."""

    result: Mapping[str, Any]
    """Of the run: steps, tokens, final_loss."""

    points: Sequence[Point] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    """More of the chain of digests: name -> sha256."""

    notes: Sequence[str] = ()
    """Lines about what came after the training, such as scores."""


def card(facts: Facts) -> str:
    """The card as Markdown, with the front matter that the hub reads."""
    numbers = {**summary(facts.points)}
    for key in ("steps", "tokens", "rows", "trained_token_share", "final_loss"):
        if facts.result.get(key) is not None:
            numbers[key] = facts.result[key]
    base = facts.base["artifact"] if facts.base else "none: it was trained from scratch"
    chain = {"data": facts.data.get("digest"), "base": (facts.base or {}).get("digest"), **facts.made}
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *([f"base_model: {facts.base['artifact']}"] if facts.base else []),
        "license:  # for the owner to fill in; it must agree with the base's and the data's",
        "---",
        "",
        f"# {facts.name}",
        "",
        f"A language model, {WHAT.get(facts.method, facts.method)}. Base: `{base}`.",
        f"Data: `{facts.data.get('artifact', 'a text file')}`.",
        "",
        "## How it was made",
        "",
        *table(("setting", "value"), sorted(flat(facts.config).items())),
        "",
        "## How it went",
        "",
        *table(("measure", "value"), numbers.items()),
        *curve(facts.points),
        *(["", "## What came after", "", *(f"- {note}" for note in facts.notes)] if facts.notes else []),
        "",
        "## Chain of digests (sha256)",
        "",
        *table(("of", "digest"), ((of, digest) for of, digest in chain.items() if digest)),
        "",
        "## Licence",
        "",
        "Not stated: the owner of this model decides, and answers for the data.",
    ]
    return "\n".join(lines) + "\n"


def curve(points: Sequence[Point]) -> list[str]:
    """A few points of the curves, from first to last."""
    if not points:
        return []
    steps = [point for point in points if "loss" in point]
    kept = (
        sorted({round(i * (len(steps) - 1) / (CURVE_ROWS - 1)) for i in range(CURVE_ROWS)}) if steps else []
    )
    rows = [(steps[i]["step"], steps[i]["loss"], steps[i].get("grad_norm", "")) for i in kept]
    found = ["", *table(("step", "loss", "gradient norm"), rows)]
    checked = [(point["step"], point["validation_loss"]) for point in points if "validation_loss" in point]
    return [*found, *(["", *table(("step", "validation loss"), checked[-CURVE_ROWS:])] if checked else [])]


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; what is not set is left out."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        elif item is not None:
            found[f"{prefix}{key}"] = item
    return found


def table(head: Sequence[str], rows: Any) -> list[str]:
    lines = [[*head], ["---"] * len(head), *([cell(each) for each in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
