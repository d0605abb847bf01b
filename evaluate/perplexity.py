"""Perplexity of a text: how surprised a model is by it, by token, word and byte. Knows nothing of models.

A document is read through a window that moves by a stride: each token is judged once, with as much of the text before it as the
window has. That is the definition of Hugging Face's guide (transformers, docs/source/en/perplexity.md), but for two things: a
start token stands before the document, so that its first token is judged too (as lm-eval's `loglikelihood_rolling` does), and
the sums are exact where the guide multiplies means.

Units: negative log-likelihoods in nats; windows and strides in tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from raymill.evaluate.config import PerplexityTask
from raymill.evaluate.row_files import check_file, rows_of
from raymill.evaluate.samples import Record
from raymill.policies.errors import Invalid

WANTED = "a text file (.txt), or rows with the field text"
DEFAULT_WINDOW = 1024
LARGEST = 700.0
"""Nats of a perplexity that is told; e to more than 709 is no number."""

PROMPT_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Document:
    index: int
    """Place in the file, from 0."""

    text: str

    @property
    def words(self) -> int:
        """What white space separates."""
        return len(self.text.split())

    @property
    def size_bytes(self) -> int:
        """In UTF-8."""
        return len(self.text.encode())


class Span(NamedTuple):
    """One window over a document's tokens, the start token among them."""

    document: int
    """Index of the document."""

    begin: int
    end: int
    counted: int
    """The last so many of its tokens are judged; those before were, in earlier windows."""


class Reading(NamedTuple):
    """How a file is read through a model's context."""

    window: int
    stride: int


def read_documents(task: PerplexityTask) -> list[Document]:
    """The first `limit` documents: a .txt file is one, any other file has one a row.

    Raises:
        NotFound: there is no such file.
        Invalid: it is another file than `sha256` says, no UTF-8, or a row has no text; the message has its number.
    """
    path = Path(task.perplexity)
    check_file(path, task.sha256, WANTED)
    if path.suffix == ".txt":
        try:
            return [document_of({"text": path.read_text(encoding="utf-8")}, 0, path.name)]
        except UnicodeDecodeError as error:
            raise Invalid(f"{path.name} is no UTF-8 text ({error}): give {WANTED}") from error
    documents: list[Document] = []
    for number, row in enumerate(rows_of(path)):
        if task.limit is not None and number >= task.limit:
            break
        documents.append(document_of(row, number, f"{path.name}, row {number + 1}"))
    if not documents:
        raise Invalid(f"{path.name} holds no document: give {WANTED}")
    return documents


def document_of(row: Any, index: int, where: str) -> Document:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise Invalid(f"{where} has no text: give {WANTED}")
    if not text.strip():
        raise Invalid(f"{where} is blank: leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"{where} has half a surrogate pair, which UTF-8 cannot hold: leave it out") from error
    return Document(index=index, text=text)


def reading_of(task: PerplexityTask, context_tokens: int | None, model: str) -> Reading:
    """Window and stride for a model with a context of `context_tokens`; None: it has no end.

    Raises:
        Invalid: the window is larger than the context, or smaller than the stride.
    """
    room = context_tokens if context_tokens is not None else DEFAULT_WINDOW
    window = task.window if task.window is not None else min(DEFAULT_WINDOW, room)
    if context_tokens is not None and window > context_tokens:
        raise Invalid(
            f"window is {window}, but the context of {model} is {context_tokens}: lower window",
            param="window",
        )
    stride = task.stride if task.stride is not None else window // 2
    if stride >= window:
        raise Invalid(
            f"stride is {stride}, and the window {window}: lower stride, or raise window", param="stride"
        )
    return Reading(window, stride)


def spans_of(document: int, tokens: int, reading: Reading) -> list[Span]:
    """The windows over a document of `tokens` tokens, the start token among them, which is not judged."""
    spans: list[Span] = []
    judged = 1
    for begin in range(0, tokens, reading.stride):
        end = min(begin + reading.window, tokens)
        if end > judged:
            spans.append(Span(document, begin, end, end - judged))
        judged = max(judged, end)
        if end == tokens:
            break
    return spans


def record_of(document: Document, nll: float, tokens: int, reading: Reading) -> Record:
    """One line of the published samples. Its score is bits per byte, which two tokenizers share."""
    return {
        "index": document.index,
        "doc_hash": hashlib.sha256(document.text.encode()).hexdigest(),
        "prompt": document.text[:PROMPT_CHARACTERS],
        "reference": "",
        "answer": "",
        "score": nll / math.log(2) / document.size_bytes,
        "metric": f"bits_per_byte, window {reading.window}, stride {reading.stride}",
        "higher_is_better": False,
        "nll": nll,
        "tokens": tokens,
        "words": document.words,
        "bytes": document.size_bytes,
    }


def metrics_of(records: Sequence[Record]) -> dict[str, float]:
    """`token_perplexity`, `word_perplexity`, `byte_perplexity` and `bits_per_byte` of all documents together."""
    nll = math.fsum(record["nll"] for record in records)
    per = {unit: nll / sum(record[f"{unit}s"] for record in records) for unit in ("token", "word", "byte")}
    found = {f"{unit}_perplexity": math.exp(min(nats, LARGEST)) for unit, nats in per.items()}
    return {**found, "bits_per_byte": per["byte"] / math.log(2)}


def check_tokens(ids: Sequence[Sequence[int]], model: str) -> None:
    """
    Args:
        ids: of each document, the start token among them.

    Raises:
        Invalid: a document has no token of its own.
    """
    empty = next((number for number, row in enumerate(ids, start=1) if len(row) < 2), None)
    if empty is not None:
        raise Invalid(f"document {empty} is nothing to the tokenizer of {model}: leave it out")


def check_finite(nll: float, document: Document) -> None:
    """
    Raises:
        Invalid: the model gave a token of the document no likelihood at all, or none that is a number.
    """
    if not math.isfinite(nll):
        raise Invalid(
            f"the log-likelihood of document {document.index + 1} is {nll}: evaluate with dtype float32"
        )
