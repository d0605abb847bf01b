"""`raymill signing`: the keys that sign versions and roots of the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.policies.errors import RaymillError

app = new_app("Keys that sign versions and roots of the audit log.")


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """Every key that ever signed, the oldest first. What a retired one signed stays valid."""
    with connect() as client:
        found = client.signing.list()
    if as_json:
        out_json(found)
        return
    rows = [(k.id[:12], k.algorithm, k.state, k.created_at, k.reason) for k in found]
    out(table(["ID", "ALGORITHM", "STATE", "CREATED", "REASON"], rows))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A file ID.pub for each key.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write the public keys that are not revoked, for those who verify without this service."""
    with connect() as client:
        found = [key for key in client.signing.list() if key.state != "revoked"]
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key in found:
            file = folder / f"{key.id}.pub"
            file.write_text(key.public_key)
            files.append(str(file))
    except OSError as error:
        raise RaymillError(f"{folder} cannot be written ({error.strerror}): name another folder") from error
    out_json({"files": files}) if as_json else out("\n".join(files))


@app.command()
def rotate(
    algorithm: Annotated[str, typer.Option(help="ed25519 or ecdsa-p256.")] = "ed25519",
    as_json: Json = False,
) -> None:
    """Sign with a new key from now on. What the old one signed stays valid."""
    with connect() as client:
        key = client.signing.rotate(algorithm)
    out_json(key) if as_json else out(f"key {key.id[:12]} ({key.algorithm}) signs from now on")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id, or its beginning.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why; whoever is refused reads it.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Have what a key signed count no more: versions that only it vouches for are no longer served.

    Today's key is replaced first. Promote such versions again: they are then signed with the new one.
    """
    with connect() as client:
        key = client.signing.revoke(key_id, reason)
    out_json(key) if as_json else out(f"key {key.id[:12]} is revoked")
