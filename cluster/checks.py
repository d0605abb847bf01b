"""What a look at one thing found, for `raymill doctor`."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """`cure` says what to do; empty when there is nothing to do."""

    name: str
    state: State
    found: str
    cure: str = ""
