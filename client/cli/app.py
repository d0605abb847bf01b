"""What all commands share: their options, and the connection. Light: httpx waits until it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raymill.client.sdk import Raymill

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many, the newest.")]
DEFAULT_LIMIT = 50


def new_app(help_text: str | None = None) -> typer.Typer:
    """A noun with verbs when it has a help text; else a command by itself."""
    app = typer.Typer(
        help=help_text,
        no_args_is_help=help_text is not None,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    if help_text is not None:
        # With a callback a noun that has one verb is still a noun.
        app.callback()(_nothing)
    return app


def _nothing() -> None:
    return


def connect() -> Raymill:
    """The service that the environment names, or the one on this machine."""
    from raymill.client.sdk import Raymill

    return Raymill()
