"""`raymill audit`: who did what."""

from __future__ import annotations

import json

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.policies.errors import RaymillError

app = new_app("Who did what.")


@app.command("list")
def list_events(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Audit rows, the newest first."""
    with connect() as client:
        found = list(client.audit.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (e.seq, e.at, e.actor, e.action, e.object, json.dumps(e.detail) if e.detail else "") for e in found
    ]
    out(table(["SEQ", "AT", "ACTOR", "ACTION", "OBJECT", "DETAIL"], rows))


@app.command()
def verify(as_json: Json = False) -> None:
    """Walk the chain of hashes. Exit 1 when a row was changed or is missing."""
    with connect() as client:
        found = client.audit.verify()
    if as_json:
        out_json(found)
    elif found.ok:
        out(f"{found.rows} rows, whole; head {found.head or '-'}")
    if not found.ok:
        raise RaymillError("the audit log was changed: compare it with a backup")
