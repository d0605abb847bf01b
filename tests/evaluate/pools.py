"""A pool of one model that is asked where the test runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self


class InThisProcess:
    """What a pool does, without its actors."""

    def __init__(self, model: object) -> None:
        self.model = model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def map(
        self, method: str, calls: Sequence[tuple[Any, ...]], on_result: Callable[[int, Any], None]
    ) -> None:
        for position, call in enumerate(calls):
            on_result(position, getattr(self.model, method)(*call))
