"""`raymill session`: logins."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.output import out, out_json, table

app = new_app("Logins.")


@app.command("list")
def list_sessions(
    account: Annotated[str | None, typer.Option(help="Another account's; for administrators.")] = None,
    as_json: Json = False,
) -> None:
    """Logins that have not ended; by default one's own."""
    with connect() as client:
        found = client.sessions.list(account=account)
    if as_json:
        out_json(found)
        return
    rows = [
        (
            s.id,
            s.account,
            s.method,
            s.address,
            s.created_at,
            s.used_at,
            s.expires_at,
            "yes" if s.current else "",
        )
        for s in found
    ]
    out(table(["ID", "ACCOUNT", "BY", "ADDRESS", "CREATED", "USED", "EXPIRES", "THIS"], rows))


@app.command()
def end(
    session_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a login.", show_default=False)],
    as_json: Json = False,
) -> None:
    """End a login, from now on."""
    with connect() as client:
        ended = client.sessions.end(session_id)
    out_json(ended) if as_json else out(f"a login of {ended.account} has ended")
