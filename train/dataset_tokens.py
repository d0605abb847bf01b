"""What a base's tokenizer makes of a registered set: token counts, and rows as the base sees them.

Jobs that stand alone, on a CPU. Units: token ids; a token is trained when the loss counts it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import NAME
from raymill.train.row_text import Row
from raymill.train.statistics import lengths_stats
from raymill.train.template import IGNORE, Example, encode, encode_kto, encode_pair, encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECK_EVERY = 500


def run_tokens(context: JobContext) -> Outcome:
    """Count the tokens of a part's rows, those that are trained, and the rows that `max_tokens` would cut."""
    tokenizer = tokenizer_of(context)
    most = int(context.config["max_tokens"])
    lengths: list[int] = []
    tokens = trained = rows = unusable = 0
    reason: str | None = None
    for number, row in enumerate(rows_of(context), start=1):
        if number % CHECK_EVERY == 1:
            context.check()
            context.event("progress", done=number - 1)
        rows = number
        try:
            examples = examples_of(tokenizer, row)
        except Invalid as error:
            unusable, reason = unusable + 1, reason or f"row {number}: {error}"
            continue
        lengths.append(max(len(example.ids) for example in examples))
        tokens += sum(len(example.ids) for example in examples)
        trained += sum(label != IGNORE for example in examples for label in example.labels)
    cut = sum(length > most for length in lengths)
    return Outcome(
        result={
            "base": context.config["base"],
            "rows": rows,
            "tokens": tokens,
            "length_tokens": lengths_stats(lengths),
            "trained_tokens": trained,
            "trained_token_share": round(trained / tokens, 4) if tokens else 0.0,
            "max_tokens": most,
            "rows_cut": cut,
            "share_cut": round(cut / rows, 4) if rows else 0.0,
            "rows_unusable": unusable,
            "first_unusable": reason,
        }
    )


def run_preview(context: JobContext) -> Outcome:
    """Rows as the base sees them: their text in pieces, each trained or not, and how many tokens they have."""
    tokenizer = tokenizer_of(context)
    first = int(context.config["first"])
    chosen = itertools.islice(rows_of(context), first - 1, first - 1 + int(context.config["rows"]))
    shown: list[JsonObject] = []
    for number, row in enumerate(chosen, start=first):
        context.check()
        try:
            examples = examples_of(tokenizer, row)
        except Invalid as error:
            shown.append({"number": number, "problem": str(error), "sequences": []})
            continue
        sequences = [
            {
                "tokens": len(example.ids),
                "trained_tokens": sum(label != IGNORE for label in example.labels),
                "pieces": pieces_of(tokenizer, example),
            }
            for example in examples
        ]
        shown.append({"number": number, "problem": None, "sequences": sequences})
    return Outcome(result={"base": context.config["base"], "rows": shown})


def examples_of(tokenizer: PreTrainedTokenizerBase, row: Row) -> Sequence[Example]:
    """The sequences that training makes of a row: one, or for a preference the chosen and the rejected one."""
    if "messages" in row:
        return [encode(tokenizer, row["messages"], row.get("tools"))]
    if "chosen" in row:
        return list(encode_pair(tokenizer, dict(row)))
    if "completion" in row:
        return [encode_kto(tokenizer, dict(row)).example]
    return [encode_text(tokenizer, row["text"])]


def pieces_of(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[JsonObject]:
    """The text of a sequence, cut where training begins and ends."""
    pairs = zip(example.ids, example.labels, strict=True)
    return [
        {"trained": trained, "text": tokenizer.decode([each for each, _ in run], skip_special_tokens=False)}
        for trained, run in itertools.groupby(pairs, key=lambda pair: pair[1] != IGNORE)
    ]


def rows_of(context: JobContext) -> Iterator[Row]:
    """The rows of the artifact's part, one after the other.

    Raises:
        NotFound: the artifact is gone, or the set has no such part.
    """
    path = context.path(context.config["artifact"]) / f"{context.config['part']}.jsonl"
    if not path.is_file():
        raise NotFound(f"the set has no {context.config['part']} rows: ask for the other part")
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def tokenizer_of(context: JobContext) -> PreTrainedTokenizerBase:
    """
    Raises:
        NotFound: there is no such base.
        Invalid: it has no tokenizer with a chat template.
    """
    from raymill.train.tokenizer import load_tokenizer

    base: str = context.config["base"]
    folder = context.path(base) if NAME.fullmatch(base) else Path(base)
    if not folder.is_dir():
        raise NotFound(
            f"no base {base!r}: give a folder in Hugging Face layout on the service's machine, or an artifact such as "
            "base/triage/0a1b2c3d4e5f"
        )
    return load_tokenizer(folder)
