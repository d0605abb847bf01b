"""`raymill chat`: talk with a served model through the gateway."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.output import out, out_json, say

if TYPE_CHECKING:
    pass

app = new_app()
Messages = list[dict[str, str]]


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="Served model, such as support-triage.", show_default=False)],
    message: Annotated[
        str | None, typer.Argument(help="What to say; else standard input, or a talk on a terminal.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 gives the likeliest answer.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a served model. The answer appears as it is made."""
    messages: Messages = [{"role": "system", "content": system}] if system else []
    talk = message is None and sys.stdin.isatty()
    with connect() as client:
        for text in typed_lines() if talk else iter([sys.stdin.read() if message is None else message]):
            messages.append({"role": "user", "content": text})
            pieces = client.chat.stream(model, messages, max_tokens=max_tokens, temperature=temperature)
            answer = "".join(pieces) if as_json else spoken(pieces)
            messages.append({"role": "assistant", "content": answer})
            if as_json:
                out_json({"model": model, "messages": messages})


def typed_lines() -> Iterator[str]:
    """What is typed, until the end of input."""
    say("Ctrl-D ends the talk.")
    while True:
        try:
            text = input("> ")
        except EOFError:
            out()
            return
        if text.strip():
            yield text


def spoken(pieces: Iterator[str]) -> str:
    """Write the answer as it comes; returns the whole."""
    heard: list[str] = []
    for piece in pieces:
        heard.append(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    out()
    return "".join(heard)
