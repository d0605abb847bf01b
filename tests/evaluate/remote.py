"""Targets behind HTTP for tests: a data set, a context and what a scripted provider answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lines import write_lines
from tests.serve.scripted_upstream import HEAD, USAGE, Act, Seen, Writer, http, send

from raymill.cluster.context import LocalContext

DATASET = "dataset/support/000000000001"
NAMES = ("red", "green", "blue", "grey", "pink", "gold")


def rows(count: int) -> list[dict[str, Any]]:
    """Ask for the colour of a number; the n-th answer is that of `colour`."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"colour {n}"},
                {"role": "assistant", "content": colour(n)},
            ]
        }
        for n in range(count)
    ]


def colour(number: int) -> str:
    return NAMES[number % len(NAMES)]


def write_rows(root: Path, count: int) -> None:
    folder = root / "artifacts" / DATASET
    folder.mkdir(parents=True)
    write_lines(folder / "test.jsonl", rows(count))


def says(answer: Callable[[Seen], str | list[dict[str, Any]]]) -> Act:
    """Answer each request with what `answer` makes of it: text, or calls of tools."""

    async def act(seen: Seen, writer: Writer) -> None:
        said = answer(seen)
        message: dict[str, Any] = {"role": "assistant", "content": said if isinstance(said, str) else None}
        if not isinstance(said, str):
            message["tool_calls"] = [{"id": "1", "type": "function", "function": each} for each in said]
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = HEAD | {"object": "chat.completion", "choices": [choice], "usage": USAGE}
        await send(writer, http(200, json.dumps(whole).encode()))

    return act


def asked(seen: Seen) -> str:
    return str(seen.body["messages"][-1]["content"])


def number_of(seen: Seen) -> int:
    return int(asked(seen).rpartition(" ")[2])


def right(seen: Seen) -> str:
    return colour(number_of(seen))


def context_for(root: Path, target: str, tasks: list[Any], **more: Any) -> LocalContext:
    evaluate = {"tasks": tasks, "max_new_tokens": 16, **more.pop("evaluate", {})}
    config = {
        "target": target,
        "version": None,
        "dataset": {"artifact": DATASET, "dataset_id": "0" * 32},
        "evaluate": evaluate,
        "ask": {"concurrency": 4, **more.pop("ask", {})},
        "key_env": None,
        **more,
    }
    return LocalContext(root, job_id="remote", name="colours", address="0" * 12, config=config)
