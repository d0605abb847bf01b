"""What all commands share: their options, and the connection. Light: httpx waits until it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from raymill.client.sdk import Raymill

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many, the newest.")]
DEFAULT_LIMIT = 50


def new_app(help_text: str | None = None, *, default: str | None = None) -> typer.Typer:
    """A noun with verbs when it has a help text; else a command by itself.

    Args:
        default: the verb that may be left out.
    """
    app = typer.Typer(
        cls=group_of(default) if default else None,
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


class DefaultGroup(TyperGroup):
    """A noun one of whose verbs may be left out: `raymill tune recipe.yaml`."""

    default: str

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def group_of(verb: str) -> type[DefaultGroup]:
    class Group(DefaultGroup):
        default = verb

    return Group


def _nothing() -> None:
    return


def connect() -> Raymill:
    """The service that the environment names, or the one on this machine."""
    from raymill.client.sdk import Raymill

    return Raymill()
