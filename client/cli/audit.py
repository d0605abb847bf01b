"""`raymill audit`: who did what, and the proof that the log is whole."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.given import text_of
from raymill.client.cli.output import out, out_json, table
from raymill.policies.errors import Invalid, RaymillError

if TYPE_CHECKING:
    from raymill.registry.audit_chain import Checked

app = new_app("Who did what.")


@app.command("list")
def list_events(
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Of objects of this kind alone, such as route; may be repeated."),
    ] = None,
    object_: Annotated[
        str | None,
        typer.Option("--object", metavar="KIND/NAME", help="Of this object, such as route/support."),
    ] = None,
    actor: Annotated[str | None, typer.Option(metavar="ACCOUNT", help="What this account did.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Audit rows, the newest first."""
    with connect() as client:
        found = list(client.audit.list(kinds=kind or (), object=object_, actor=actor, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (e.seq, e.at, e.actor, e.address, e.action, e.object, json.dumps(e.detail) if e.detail else "")
        for e in found
    ]
    out(table(["SEQ", "AT", "ACTOR", "FROM", "ACTION", "OBJECT", "DETAIL"], rows))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A line for each row is written here.", show_default=False)],
    root_only: Annotated[bool, typer.Option("--root-only", help="Only the signed root, into FILE.")] = False,
    as_json: Json = False,
) -> None:
    """Write the whole log to FILE and a signed root of it to FILE.root.json; keep them where the service cannot write.

    `raymill audit verify --log FILE --root FILE.root.json --key KEY.pub` checks them without any service.
    """
    from base64 import b64decode

    root_file = file if root_only else file.with_name(f"{file.name}.root.json")
    with connect() as client:
        envelope = client.audit.root().envelope
        rows = json.loads(b64decode(envelope["payload"]))["rows"]
        if not root_only:
            _write(file, client.audit.lines(until=rows))
    _write(root_file, iter([json.dumps(envelope) + "\n"]))
    if as_json:
        out_json({"rows": rows, "log": None if root_only else str(file), "root": str(root_file)})
    else:
        out(f"{rows} rows; signed root in {root_file}")


@app.command()
def verify(
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Signed root that was exported earlier; may be given often.", show_default=False),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(help="Public key (PEM) that may have signed the roots.", show_default=False),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="An exported log, in place of the service's.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Find what was changed, added, moved or left out. Exit 1 when something was.

    Without options the service walks its own log and holds it against the roots that it keeps. With --root or --log
    the rows are checked here: nothing of what the service says of them is believed.
    """
    if root or log:
        found = _checked_here(root or [], key or [], log)
        rows, head, vouched = found.rows, found.head.hex(), found.vouched
        if as_json:
            shown = {"ok": True, "rows": rows, "head": head, "root": found.root.hex(), "vouched": vouched}
            out_json(shown)
    else:
        with connect() as client:
            checked = client.audit.verify()
        rows, head, vouched = checked.rows, checked.head or "-", checked.vouched
        if as_json:
            out_json(checked)
        if not checked.ok:
            raise RaymillError("the audit log was changed: compare it with a backup")
    if not as_json:
        out(f"{rows} rows, whole; a signed root vouches for the first {vouched}; head {head}")


def _checked_here(roots: list[Path], keys: list[Path], log: Path | None) -> Checked:
    from raymill.registry.audit_chain import verify_lines
    from raymill.registry.audit_roots import read_root

    if roots and not keys:
        raise Invalid(
            "--root needs --key: the public key that signed it, as `raymill signing export` writes it"
        )
    public_keys = [text_of(path, "name a public key in PEM") for path in keys]
    known = [read_root(path, public_keys) for path in roots]
    if log is not None:
        try:
            with log.open("rb") as file:
                return verify_lines(file, known)
        except OSError as error:
            raise Invalid(f"{log} cannot be read ({error.strerror}): name an exported log") from error
    with connect() as client:
        return verify_lines((line.encode() for line in client.audit.lines()), known)


def _write(path: Path, lines: Iterator[str]) -> None:
    """Whole, or not at all."""
    draft = path.with_name(f"{path.name}.new")
    try:
        with draft.open("w", newline="") as file:
            for piece in iter(lambda: "".join(itertools.islice(lines, 1000)), ""):
                file.write(piece)
        draft.replace(path)
    except OSError as error:
        raise RaymillError(f"{path} cannot be written ({error.strerror}): name another file") from error
    finally:
        draft.unlink(missing_ok=True)
