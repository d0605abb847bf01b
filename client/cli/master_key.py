"""`raymill master-key`: the keys that seal secrets."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.output import out, out_json, table

app = new_app("Keys that seal secrets.")


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """Versions, and how many secrets each seals."""
    with connect() as client:
        found = client.master_keys.list()
    if as_json:
        out_json(found)
        return
    rows = [(key.id, "yes" if key.current else "", key.created_at, key.secrets) for key in found]
    out(table(["ID", "CURRENT", "CREATED", "SECRETS"], rows))


@app.command()
def rotate(as_json: Json = False) -> None:
    """Make a new one, and seal every secret with it. The old ones stay."""
    with connect() as client:
        made = client.master_keys.rotate()
    out_json(made) if as_json else out(f"master key {made.id} seals {made.resealed} secrets anew")


@app.command()
def rewrap(as_json: Json = False) -> None:
    """Seal what is still under an older one: goes on with a rotation that was cut short."""
    with connect() as client:
        made = client.master_keys.rewrap()
    out_json(made) if as_json else out(f"master key {made.id} seals {made.resealed} secrets anew")


@app.command()
def retire(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of an old one.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Delete an old one for good. Refused while a secret is sealed under it."""
    with connect() as client:
        left = client.master_keys.retire(key_id)
    out_json(left) if as_json else out(f"master key {key_id} is gone; {len(left)} left")
