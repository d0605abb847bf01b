"""`raymill key`: API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, say, table

if TYPE_CHECKING:
    from raymill.client.types import Scope

app = new_app("API keys.")


@app.command("list")
def list_keys(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Keys, by their first letters."""
    with connect() as client:
        found = list(client.keys.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (k.id, k.account, k.name, k.prefix, k.scopes or "all", k.used_at, k.expires_at, k.revoked_at)
        for k in found
    ]
    out(table(["ID", "ACCOUNT", "NAME", "PREFIX", "SCOPES", "USED", "EXPIRES", "REVOKED"], rows))


@app.command()
def create(
    account: Annotated[str, typer.Argument(help="Account that the key speaks for.", show_default=False)],
    name: Annotated[str, typer.Argument(help="What the key is for, such as laptop.", show_default=False)],
    expires_in_days: Annotated[int | None, typer.Option(min=1, max=3650, help="Never by default.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="gateway, read or write; may be given again. By default all that the account may."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown this once; only its hash is kept."""
    scopes = cast("list[Scope]", scope or [])  # the request's type says which there are
    with connect() as client:
        made = client.keys.create(account, name, expires_in_days=expires_in_days, scopes=scopes)
    if as_json:
        out_json(made)
        return
    say(f"key {made.name} of {made.account}; keep it now, it is not shown again:")
    out(made.key)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a key.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Make a key worthless, from now on."""
    with connect() as client:
        key = client.keys.revoke(key_id)
    out_json(key) if as_json else out(f"{key.prefix} of {key.account} is revoked")
