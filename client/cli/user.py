"""`raymill user`: accounts and their roles."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.client.types import RoleName

app = new_app("Accounts and their roles.")


@app.command("list")
def list_users(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Accounts."""
    with connect() as client:
        found = list(client.accounts.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(a.name, a.role, a.created_at, a.disabled_at) for a in found]
    out(table(["NAME", "ROLE", "CREATED", "DISABLED"], rows))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the account.", show_default=False)],
    role: Annotated[RoleName, typer.Option(help="What it may do.")] = "viewer",
    as_json: Json = False,
) -> None:
    """Add an account. It can do nothing before `raymill key create` gives it a key."""
    with connect() as client:
        account = client.accounts.create(name, role=role)
    out_json(account) if as_json else out(f"{account.name} is {account.role}")
