"""Hugging Face layout -> GGUF in F16, by llama.cpp's own converter in a process of its own.

Of a byte-fallback BPE without `tokenizer.model` the converter loses two things: every token gets the same
score, so that llama.cpp would merge from left to right, and added tokens such as `<|user|>` become plain
text unless they are the end, the padding... `complete_vocabulary` writes both into the file.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raymill.evaluate.child import module_command, run_child
from raymill.evaluate.fetch_converter import converter_script
from raymill.policies.errors import Invalid

CARD = "README.md"

NO_SCORE = -1000.0
"""What the converter writes when it knows no scores."""


def export_f16(model: Path, target: Path, work: Path, check: Callable[[], None]) -> None:
    """Write `target` (a .gguf file) from the model in `model`. An earlier attempt's file is kept.

    Raises:
        Invalid: the directory is no model that a converter could read.
        Unavailable: the converter was not fetched.
        ChildFailed: the converter refused the model; the message has its last words.
    """
    if target.is_file():
        return
    if not (model / "config.json").is_file():
        raise Invalid(f"{model.name} has no config.json: give a model in Hugging Face layout")
    given = (str(model), "--outtype", "f16", "--model-name", target.stem)
    with converted(converter_script(), given, model.name, target, work / "convert.log", check) as partial:
        complete_vocabulary(partial, model)


@contextlib.contextmanager
def converted(
    script: Path, given: Sequence[str], name: str, target: Path, log: Path, check: Callable[[], None]
) -> Iterator[Path]:
    """Run one of llama.cpp's converters. What it wrote may still be changed in the block; after it, it is `target`.

    Args:
        given: the converter's arguments, apart from where it writes.
        name: of what is converted, for messages.

    Raises:
        ChildFailed: the converter refused it; the message has its last words.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    command = [*module_command("raymill.evaluate.child", str(script)), *given, "--outfile", str(partial)]
    run_child(command, f"converting {name} to GGUF", log, check)
    yield partial
    partial.rename(target)


def links_to(files: Sequence[Path], directory: Path, *, card_of: Path | None = None) -> Path:
    """A directory to publish. Links, since the files are needed again if this attempt dies before its end.

    Args:
        card_of: whose README.md lies beside them, where it has one.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for file in files:
        (directory / file.name).hardlink_to(file)
    if card_of is not None and (card_of / CARD).is_file():
        shutil.copyfile(card_of / CARD, directory / CARD)
    return directory


def complete_vocabulary(file: Path, model: Path) -> bool:
    """Write what the converter left out when it had only tokenizer.json. True if it wrote.

    Scores follow the order of the merges, and every added token is one that a text is split at.
    """
    from gguf import GGUFReader, TokenType

    path = model / "tokenizer.json"
    if not path.is_file():
        return False
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    reader = GGUFReader(file, "r+")
    kind, tokens, scores, types = (
        reader.get_field(f"tokenizer.ggml.{name}") for name in ("model", "tokens", "scores", "token_type")
    )
    if kind is None or tokens is None or scores is None or types is None or kind.contents() != "llama":
        return False
    if any(scores.parts[part][0] != NO_SCORE for part in scores.data):
        return False
    for position, (left, right) in reversed(list(enumerate(merges_of(tokenizer)))):
        token = tokenizer["model"]["vocab"][left + right]
        scores.parts[scores.data[token]][0] = -float(position)
    for added in tokenizer.get("added_tokens", []):
        split = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        types.parts[types.data[added["id"]]][0] = split
    reader.data.flush()
    return True


def merges_of(tokenizer: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges of a BPE tokenizer.json, the first first; empty for another kind."""
    pairs = tokenizer["model"].get("merges", [])
    return [(left, right) for left, right in (p.split(" ", 1) if isinstance(p, str) else p for p in pairs)]
