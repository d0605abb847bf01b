"""When the next backup is due, and which old ones may go: none before a newer one was restored and found equal."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from raymill.cluster.backup import manifest, stream
from raymill.cluster.backup.create import alone, create
from raymill.cluster.backup.manifest import Backup
from raymill.cluster.backup.prove import Proof, prove
from raymill.cluster.settings import Settings


def is_due(folder: Path, every_s: float) -> bool:
    """Whether the newest backup is older than `every_s`, or there is none."""
    names = [path.parent.name for path in folder.glob(f"*/{manifest.MANIFEST}")]
    newest_name = max((name for name in names if manifest.NAME.fullmatch(name)), default=None)
    if newest_name is None:
        return True
    newest = dt.datetime.strptime(newest_name, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    return (dt.datetime.now(dt.UTC) - newest).total_seconds() >= every_s


def take_next(settings: Settings) -> tuple[Backup, Proof, list[str]]:
    """Take a backup, prove it, and delete what is older than the newest `backup_keep` proven ones.

    Returns:
        The names of those that were deleted, too. None are when the proof fails.

    Raises:
        As `create` and `prove`.
    """
    backup = create(settings, settings.backups_dir)
    secret = settings.backup_passphrase
    proof = prove(backup, passphrase=secret.get_secret_value() if secret is not None else None)
    return backup, proof, prune(settings.backups_dir, settings.backup_keep) if proof.ok else []


def prune(folder: Path, keep: int) -> list[str]:
    """Delete the backups that are older than the newest `keep` proven ones, and the WAL that none needs. Returns their names."""
    with alone(folder):
        there = manifest.kept(folder)
        proven = [backup.path.name for backup in there if backup.proof is not None]
        oldest = proven[-keep] if len(proven) > keep else ""
        going = [backup for backup in there if backup.path.name < oldest]
        for backup in going:
            manifest.delete(backup)
        stream.forget(folder, [backup for backup in there if backup not in going])
        return [backup.path.name for backup in going]
