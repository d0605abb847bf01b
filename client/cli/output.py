"""How results look as text: tables, trees, times. Plain text, so that pipes and small terminals work."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from raymill.policies.errors import Invalid

if TYPE_CHECKING:
    from raymill.client.types import ImageFormat

NOTHING = "-"

IMAGE_FORMATS: dict[str, ImageFormat] = {".png": "png", ".svg": "svg"}
"""By the ending of a file's name."""


def out(text: str = "") -> None:
    """One line on stdout."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """One line on stderr: what is not the result."""
    sys.stderr.write(text + "\n")


def out_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
    if isinstance(value, BaseModel):
        data: Any = value.model_dump(mode="json")
    elif isinstance(value, dict):
        data = value
    else:
        data = [one.model_dump(mode="json") for one in value]
    out(json.dumps(data, indent=2, ensure_ascii=False))


def image_format(path: Path, option: str) -> ImageFormat:
    """What `path` is to hold, by its ending. Raises Invalid: it is no picture."""
    if path.suffix not in IMAGE_FORMATS:
        raise Invalid(f"--{option} is {path}, a picture is .png or .svg: change its ending", param=option)
    return IMAGE_FORMATS[path.suffix]


class Switched(Protocol):
    """Something with a name that can be enabled and disabled."""

    @property
    def name(self) -> str: ...
    @property
    def enabled(self) -> bool: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def out_switched(found: Switched, as_json: bool) -> None:
    if as_json:
        out_json(found.model_dump(mode="json"))
    else:
        out(f"{found.name} is {'enabled' if found.enabled else 'disabled'}")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; the last one is not padded."""
    cells = [list(headers), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def cell(value: object) -> str:
    match value:
        case None | "":
            return NOTHING
        case dt.datetime():
            return when(value)
        case float():
            return f"{value:.4g}"
        case list() | tuple() | set() | frozenset():
            return ", ".join(str(one) for one in value) or NOTHING
    return " ".join(str(value).split())


def when(moment: dt.datetime | None) -> str:
    """Local time, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else NOTHING


def duration(seconds: float | None) -> str:
    """`0:07`, `12:34`, `1:02:03`."""
    if seconds is None:
        return NOTHING
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class Tree:
    """A text and what hangs below it."""

    text: str
    children: list[Tree] = field(default_factory=list)

    def add(self, text: str) -> Tree:
        child = Tree(text)
        self.children.append(child)
        return child

    def render(self) -> str:
        return "\n".join([self.text, *self._below("")])

    def _below(self, indent: str) -> Iterable[str]:
        for number, child in enumerate(self.children):
            last = number == len(self.children) - 1
            yield f"{indent}{'└── ' if last else '├── '}{child.text}"
            yield from child._below(indent + ("    " if last else "│   "))
