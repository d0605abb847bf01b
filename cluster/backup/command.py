"""`raymill backup`: create, list, verify, prove, restore; and what the supervisor runs on schedule.

Exit 0: done. 1: it failed, or what was restored is not what was backed up. 2: the input was wrong.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raymill.cluster import logs
from raymill.cluster.backup import manifest, stream
from raymill.cluster.backup.create import create
from raymill.cluster.backup.manifest import Backup
from raymill.cluster.backup.prove import Proof, compare_home, prove
from raymill.cluster.backup.restore import restore, verify
from raymill.cluster.backup.schedule import take_next
from raymill.cluster.processes import give_way
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, RaymillError
from raymill.registry.sizes import size

Shown = tuple[dict[str, Any], str]
"""A result for programs, and for people."""


def create_one(settings: Settings, arguments: argparse.Namespace) -> Shown:
    backup = create(settings, _folder(settings, arguments.to))
    return _facts(backup), f"{_told(backup)}\n`raymill backup prove` restores it elsewhere and compares"


def list_all(settings: Settings, arguments: argparse.Namespace) -> Shown:
    folder = _folder(settings, arguments.folder)
    there, damaged = manifest.kept(folder), manifest.damaged(folder)
    rows = [f"{'BACKUP':<18}{'SIZE':>10}{'ADDED':>10}{'ROWS':>10}  {'ARTIFACTS':<11}{'KEYS':<8}PROVEN"]
    for backup in there:
        written, proof = backup.manifest, backup.proof
        rows.append(
            f"{written.name:<18}{size(written.size_bytes):>10}{size(written.copied_bytes):>10}{written.rows:>10}  "
            f"{len(written.artifacts):<11}{'sealed' if written.sealed_keys else '-':<8}{proof['at'] if proof else 'never'}"
        )
    rows += [f"{path.name:<18} damaged: its manifest cannot be read" for path in damaged]
    if not there and not damaged:
        rows = [f"No backup in {folder}: `raymill backup create` makes one."]
    shown = {
        "folder": str(folder),
        "backups": [_facts(backup) for backup in there],
        "damaged": [path.name for path in damaged],
    }
    return shown, "\n".join(rows)


def verify_one(settings: Settings, arguments: argparse.Namespace) -> Shown:
    backup = manifest.find(_folder(settings, arguments.folder), arguments.backup)
    read = verify(backup)
    shown = {"backup": backup.manifest.name, "ok": True, "bytes": read}
    return shown, f"{backup.manifest.name} is whole: {size(read)} read; `raymill backup prove` restores it"


def prove_one(settings: Settings, arguments: argparse.Namespace) -> Shown:
    backup = manifest.find(_folder(settings, arguments.folder), arguments.backup)
    passphrase = _passphrase(settings)
    if arguments.home is not None:
        proof = compare_home(Path(arguments.home).absolute(), backup, passphrase=passphrase)
    else:
        scratch = Path(arguments.scratch).absolute() if arguments.scratch else None
        proof = prove(backup, scratch=scratch, passphrase=passphrase)
    return asdict(proof), _proof_told(proof)


def restore_one(settings: Settings, arguments: argparse.Namespace) -> Shown:
    backup = manifest.find(_folder(settings, arguments.folder), arguments.backup)
    home, passphrase = Path(arguments.to).absolute(), _passphrase(settings)
    until = restore(backup, home, newest=arguments.newest, passphrase=passphrase)
    keys = "none" if not backup.manifest.sealed_keys else "opened" if passphrase else "sealed"
    shown = {
        "backup": backup.manifest.name,
        "home": str(home),
        "moment": until,
        "keys": keys,
    }
    lines = [f"{home} is the service as it was at {until}"]
    if keys != "opened":
        lines.append(
            "Its keys are not there: `raymill up` makes new ones; providers' keys and personal data stay sealed "
            "(docs/backups.md)"
        )
    lines.append(f"Start it: RAYMILL_HOME={home} raymill up")
    return shown, "\n".join(lines)


def on_schedule(settings: Settings, arguments: argparse.Namespace) -> Shown:  # noqa: ARG001 (a command like the others)
    give_way()
    backup, proof, deleted = take_next(settings)
    lines = [_told(backup), _proof_told(proof), *(f"deleted {name}" for name in deleted)]
    return {**asdict(proof), "deleted": deleted}, "\n".join(lines)


def receive_wal(settings: Settings, arguments: argparse.Namespace) -> Shown:  # noqa: ARG001 (a command like the others)
    stream.receive(settings)


COMMANDS: dict[str, Callable[[Settings, argparse.Namespace], Shown]] = {
    "create": create_one,
    "list": list_all,
    "verify": verify_one,
    "prove": prove_one,
    "restore": restore_one,
    "scheduled": on_schedule,
    "receive": receive_wal,
}


def main() -> None:
    logs.set_up("backup")
    arguments = _parser().parse_args()
    # Ends by way of what cleans up: a database that was started for a proof would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        shown, text = COMMANDS[arguments.command](Settings(), arguments)
    except (RaymillError, ValueError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2 if isinstance(error, Invalid) else 1)
    sys.stdout.write((json.dumps(shown, indent=2) if arguments.json else text) + "\n")
    if not shown.get("ok", True):
        sys.stderr.write("error: what was restored is not what was backed up: take another backup\n")
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raymill backup")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        command.add_argument("--json", action="store_true")
        if name in {"list", "verify", "prove", "restore"}:
            command.add_argument("--from", dest="folder")
        if name in {"create", "restore"}:
            command.add_argument("--to", required=name == "restore")
        if name in {"verify", "prove", "restore"}:
            command.add_argument("backup", nargs=None if name == "restore" else "?")
        if name == "restore":
            command.add_argument("--newest", action="store_true")
        if name == "prove":
            command.add_argument("--in", dest="scratch")
            command.add_argument("--home")
    return parser


def _folder(settings: Settings, given: str | None) -> Path:
    return Path(given).absolute() if given else settings.backups_dir


def _passphrase(settings: Settings) -> str | None:
    return settings.backup_passphrase.get_secret_value() if settings.backup_passphrase is not None else None


def _facts(backup: Backup) -> dict[str, Any]:
    written = backup.manifest
    return {
        "name": written.name,
        "path": str(backup.path),
        "moment": written.moment,
        "schema": written.schema,
        "tables": len(written.tables),
        "rows": written.rows,
        "artifacts": len(written.artifacts),
        "lost": list(written.lost),
        "size_bytes": written.size_bytes,
        "copied_bytes": written.copied_bytes,
        "sealed_keys": written.sealed_keys,
        "took_s": written.took_s,
        "writers_waited_s": written.writers_waited_s,
        "proof": backup.proof,
    }


def _told(backup: Backup) -> str:
    written = backup.manifest
    lines = [
        f"{backup.path}: {size(written.size_bytes)}, of which {size(written.copied_bytes)} are new, in {written.took_s:.1f} s",
        f"As of {written.moment}: {written.rows} rows in {len(written.tables)} tables, {len(written.artifacts)} artifacts; "
        f"writers waited {written.writers_waited_s * 1000:.0f} ms at most",
    ]
    lines += [f"NOT in it, damaged or gone in the store: artifact {name}" for name in written.lost]
    if not written.sealed_keys:
        lines.append(
            "Private and master keys are not in it: set RAYMILL_BACKUP_PASSPHRASE to seal them into it"
        )
    return "\n".join(lines)


def _proof_told(proof: Proof) -> str:
    linked = ", linked" if proof.artifacts_linked else ""
    lines = [
        f"{proof.backup} {'restored and equal' if proof.ok else 'restored and NOT EQUAL'}: {proof.rows} rows in "
        f"{proof.tables} tables, {proof.artifacts} artifacts ({size(proof.artifact_bytes)}{linked}), "
        f"{proof.audit_rows} rows of the audit log, {proof.audit_vouched} of them vouched for by a signed root",
        f"RPO {proof.rpo_s:.1f} s: what was committed since {proof.moment} is not in it",
        f"RTO {proof.rto_s:.1f} s until the database answered, {proof.compare_s:.1f} s more to compare",
    ]
    if proof.keys != "opened":
        said = (
            "not in it"
            if proof.keys == "none"
            else "sealed; without RAYMILL_BACKUP_PASSPHRASE they were not opened"
        )
        lines.append(f"Private and master keys: {said}")
    return "\n".join([*lines, *(f"- {each}" for each in proof.differences)])
