"""Files of rows, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def json_lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text(json_lines(rows), encoding="utf-8")
    return path
