"""Text that GGUF files are measured on: rows of a data set, or of a file, as a model saw them in training, in token ids.

Conversations are rendered whole, with the version's own template; pairs with the answer that is preferred; plain text is
taken as it stands. The ids are those of the version's tokenizer, so every file is asked the very same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from raymill.evaluate.prompts import turns_of
from raymill.evaluate.quantize_config import TextFile
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import sha256_file

SHORTEST = 2
"""Tokens of a row: one that is read, one that is predicted."""


def text_path(asked: TextFile, otherwise: Path) -> Path:
    """The file that a recipe names, or the data set's.

    Raises:
        NotFound: there is no such file.
        Invalid: it is another file than the recipe was submitted with.
    """
    if asked.file is None:
        return otherwise
    path = Path(asked.file)
    if not path.is_file():
        raise NotFound(
            f"there is no file {path}: give one with text, or leave it out for the data set's rows"
        )
    if asked.sha256 is not None and (found := sha256_file(path)) != asked.sha256:
        raise Invalid(
            f"{path.name} has sha256 {found[:12]}…, the recipe says {asked.sha256[:12]}…: it has changed"
        )
    return path


def asks_nothing(path: Path) -> bool:
    """Whether the rows of a data set are plain text."""
    with path.open(encoding="utf-8") as file:
        return "text" in json.loads(file.readline() or "{}")


def token_rows(
    path: Path, tokenizer: Any, *, row_tokens: int, rows: int | None = None, tokens: int | None = None
) -> list[list[int]]:
    """Ids of the first `rows` rows, long ones cut into several of at most `row_tokens` where `tokens` asks for so many
    predictions, else cut off.

    Raises:
        Invalid: a row has messages and the tokenizer no chat template, is no row at all, or nothing is long enough.
    """
    found: list[list[int]] = []
    left = tokens
    for number, text in enumerate(texts_of(path, tokenizer)):
        if number == rows:
            break
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids) if left is not None else 1, row_tokens):
            piece = ids[start : start + row_tokens]
            if left is not None:
                piece = piece[: left + 1]
                left -= max(0, len(piece) - 1)
            if len(piece) >= SHORTEST:
                found.append(piece)
        if left is not None and left <= 0:
            break
    if not found:
        raise Invalid(f"{path.name} holds no text of {SHORTEST} tokens or more: give another file")
    return found


def texts_of(path: Path, tokenizer: Any) -> Iterator[str]:
    """Each row, or each document of plain text, as the model saw it in training."""
    with path.open(encoding="utf-8") as file:
        if path.suffix != ".jsonl":
            yield from documents(file)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield text_of(line, tokenizer, f"{path.name}:{number}")


def documents(lines: Iterable[str]) -> Iterator[str]:
    """Parted by empty lines."""
    held: list[str] = []
    for line in lines:
        if line.strip():
            held.append(line)
        elif held:
            yield "".join(held)
            held = []
    if held:
        yield "".join(held)


def text_of(line: str, tokenizer: Any, where: str) -> str:
    """One row in normal form, whole. Raises Invalid."""
    try:
        row = json.loads(line)
        if "text" in row:
            return str(row["text"])
        messages, tools = turns_of(row), row.get("tools")
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{where} is no row in normal form ({error}): run the dataset step on it") from error
    if tokenizer.chat_template is None:
        raise Invalid(
            f"{where} is a conversation, but the model has no chat template: give a file of plain text"
        )
    return str(tokenizer.apply_chat_template(messages, tools=tools or None, tokenize=False))
