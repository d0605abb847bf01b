"""`raymill evaluate changed`: the examples behind a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from raymill.client.cli.app import Json, connect
from raymill.client.cli.output import NOTHING, out, out_json, say
from raymill.client.evaluation_types import Side

if TYPE_CHECKING:
    from raymill.client.evaluation_types import ChangedSample, SampleAnswer

LONGEST = 300
"""Characters of a text that a terminal is shown."""

Version = Annotated[str, typer.Argument(help="As for `evaluate compare`.", show_default=False)]


def changed(
    a: Version,
    b: Version,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="May be left out when they share one alone.")
    ] = None,
    better: Annotated[
        Side, typer.Option(help="Who did better on them; neither: answers differ, scores do not.")
    ] = "either",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the examples that A and B did not answer alike: what was asked and wanted, and what each answered.

    In the order of the data. Long texts are cut; --json prints all of them.
    """
    with connect() as client:
        found = list(client.evaluations.changed(a, b, task=task, better=better, limit=limit))
    if as_json:
        out_json(found)
        return
    for each in found:
        out("\n".join(lines_of(a, b, each)))
        out()
    if not found:
        say("no example fits: they answered alike, or another --better has some")
    elif len(found) == limit:
        say(f"these are the first {limit}: -n shows more")


def lines_of(a: str, b: str, each: ChangedSample) -> Iterator[str]:
    whose = {"a": f"{a} did better", "b": f"{b} did better", "neither": "the same score"}[each.better]
    yield f"example {NOTHING if each.index is None else each.index}: {whose}"
    yield f"  asked   {cut(each.prompt)}"
    if each.prompt_b is not None:
        yield f"  and B   {cut(each.prompt_b)}"
    yield f"  wanted  {cut(each.reference)}"
    for letter, answer in (("A", each.a), ("B", each.b)):
        yield f"  {letter} {answer.score:<5.4g} {cut(answer.answer)}{more_of(answer)}"


def more_of(answer: SampleAnswer) -> str:
    told = [f"the first of {answer.answers}"] if answer.answers > 1 else []
    told += [answer.reason] if answer.reason else []
    return f" ({'; '.join(told)})" if told else ""


def cut(text: str | None) -> str:
    """In one line, the end of a long one left out."""
    line = " ".join((text or "").split())
    return f"{line[:LONGEST]}…" if len(line) > LONGEST else line or NOTHING
