"""`raymill backup`: copies of all that is of record, and the proof that they can be restored.

They run beside the service, on its machine, as processes of their own: what they import is not light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from raymill.client.cli.app import Json, new_app
from raymill.client.cli.service import process

app = new_app("Copies of all that is of record, and the proof that they can be restored.")

Name = Annotated[
    str | None,
    typer.Argument(help="Name or path; the newest by default.", metavar="BACKUP", show_default=False),
]
Folder = Annotated[
    str | None,
    typer.Option(
        "--from", help="Where backups lie, in place of RAYMILL_BACKUP_DIR.", metavar="DIR", show_default=False
    ),
]


@app.command()
def create(
    to: Annotated[
        str | None,
        typer.Option(help="Where to, in place of RAYMILL_BACKUP_DIR.", metavar="DIR", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Back up database, artifacts and audit roots while the service runs.

    Artifacts that an earlier backup has are linked, not copied. Keys go in sealed where RAYMILL_BACKUP_PASSPHRASE is set,
    else not at all. The disk's room is looked at first.
    """
    _backup("create", {"--to": to}, as_json=as_json)


@app.command("list")
def list_backups(folder: Folder = None, as_json: Json = False) -> None:
    """The backups there are, the oldest first, and when each was proven."""
    _backup("list", {"--from": folder}, as_json=as_json)


@app.command()
def verify(backup: Name = None, folder: Folder = None, as_json: Json = False) -> None:
    """Read every byte of a backup; a damaged file is named. Exit 1 when there is one."""
    _backup("verify", {"--from": folder}, backup, as_json=as_json)


@app.command()
def prove(
    backup: Name = None,
    folder: Folder = None,
    scratch: Annotated[
        str | None,
        typer.Option(
            "--in",
            help="Restore below DIR, in place of beside the backup.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    home: Annotated[
        str | None,
        typer.Option(
            help="Compare HOME, restored earlier and not started since.", metavar="HOME", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore a backup elsewhere, start its database and compare everything; tell RPO and RTO.

    Each table's rows and digest, each artifact's bytes, the audit log and its signed roots. Exit 1 when anything differs.
    """
    _backup("prove", {"--from": folder, "--in": scratch, "--home": home}, backup, as_json=as_json)


@app.command()
def restore(
    backup: Annotated[str, typer.Argument(help="Name or path.", metavar="BACKUP", show_default=False)],
    to: Annotated[
        str, typer.Option(help="A folder that is empty or not there yet.", metavar="HOME", show_default=False)
    ],
    folder: Folder = None,
    newest: Annotated[
        bool,
        typer.Option("--newest", help="With all the WAL that was received since (RAYMILL_BACKUP_WAL=1)."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a home of a backup, from which `RAYMILL_HOME=HOME raymill up` starts."""
    flags = ["--newest"] if newest else []
    _backup("restore", {"--from": folder, "--to": to}, backup, flags=flags, as_json=as_json)


def _backup(
    verb: str,
    options: dict[str, str | None],
    backup: str | None = None,
    *,
    as_json: bool,
    flags: Sequence[str] = (),
) -> None:
    arguments = [*flags, *(f"{name}={value}" for name, value in options.items() if value is not None)]
    arguments += ["--json"] if as_json else []
    arguments += ["--", backup] if backup is not None else []
    raise typer.Exit(process("raymill.cluster.backup", [verb, *arguments]))
