"""`raymill dataset`: registered sets of conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.client.cli.run import watch

app = new_app("Registered sets of conversations.")
DataFile = Annotated[Path, typer.Option(exists=True, dir_okay=False, resolve_path=True, show_default=False)]


@app.command("list")
def list_datasets(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Data sets, the newest first."""
    with connect() as client:
        found = list(client.datasets.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (d.name, d.number, d.format, d.train_rows, d.test_rows, d.digest[:12], d.created_at) for d in found
    ]
    out(table(["NAME", "NUMBER", "FORMAT", "TRAIN", "TEST", "DIGEST", "CREATED"], rows))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name in the registry.", show_default=False)],
    train: DataFile,
    test: DataFile,
    allow_bad_rows: Annotated[bool, typer.Option("--allow-bad-rows", help="Leave bad rows out.")] = False,
    as_json: Json = False,
) -> None:
    """Check two files, training and held-out rows, and register them. Exit 1 when a row is bad."""
    with connect() as client:
        pipeline = client.datasets.create(
            name, train=str(train), test=str(test), allow_bad_rows=allow_bad_rows
        )
    watch(pipeline, as_json=as_json)
