"""What a backup says of itself, and which ones lie in a folder.

    <folder>/<name>/manifest.json    written last; a folder without it is no backup
                   /proof.json       written when it was restored and found equal
                   /database/        `base.tar` of `pg_basebackup`, with the WAL that makes it consistent
                   /wal/             what follows, up to the moment
                   /artifacts/       hard links to an earlier backup's files where it has them
                   /audit/           signed roots of the audit log
                   /keys/            public halves; everything else in `keys.sealed`, where there is a passphrase
    <folder>/.new-<name>             being made
    <folder>/.old-<name>             being deleted
    <folder>/.proof-<name>           being proven

Names are the time at which they were begun, so that they sort by it. Times are UTC, sizes bytes, digests sha256 in hex.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import FileDigest
from raymill.registry.files import flush_folder, write_private

FORMAT = 1
MANIFEST = "manifest.json"
PROOF = "proof.json"
SEALED_KEYS = "keys.sealed"
NAME = re.compile(r"\d{8}T\d{6}Z")
NEW, OLD, PROVING = ".new-", ".old-", ".proof-"


@dataclass(frozen=True, kw_only=True)
class TableState:
    """A table at one moment."""

    name: str
    rows: int
    digest: str
    """Over the sorted digests of its rows, so that it does not depend on where they lie."""


@dataclass(frozen=True, kw_only=True)
class ArtifactFiles:
    """A published directory, as its row says."""

    name: str
    files: tuple[FileDigest, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is needed to restore a backup and to compare what comes out."""

    format: int
    name: str
    raymill: str
    """Version that made it."""

    schema: str | None
    """Newest migration that was applied."""

    postgres_major: int
    moment: str
    """ISO 8601, by the database's clock: what was committed until then is in it, and nothing later."""

    lsn: str
    """Where in the WAL that moment is."""

    system: str
    """PostgreSQL's own identifier of the data."""

    timeline: int
    home: str = ""
    """Of the service (`Settings.home_id`): two that were restored from one backup have the same system and timeline."""

    database: str
    role: str
    external: bool
    """The database was not the embedded one."""

    tables: tuple[TableState, ...]
    audit_rows: int
    artifacts: tuple[ArtifactFiles, ...]
    lost: tuple[str, ...]
    """Artifacts that were damaged or gone when the backup was made, and that no earlier backup had."""

    files: tuple[FileDigest, ...]
    """All others, relative to the backup."""

    sealed_keys: bool
    writers_waited_s: float
    took_s: float
    copied_bytes: int
    """What it added to the disk."""

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    @property
    def size_bytes(self) -> int:
        """Of all that it restores."""
        own = sum(file.size_bytes for file in self.files)
        return own + sum(file.size_bytes for each in self.artifacts for file in each.files)

    @property
    def at(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.moment)


@dataclass(frozen=True, kw_only=True)
class Backup:
    """One that is whole, as far as its folder tells; `restore.verify` reads its bytes."""

    path: Path
    manifest: Manifest

    @property
    def proof(self) -> dict[str, object] | None:
        """What was found when it was last restored and found equal."""
        try:
            found: dict[str, object] = msgspec.json.decode((self.path / PROOF).read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return found


def write(draft: Path, manifest: Manifest) -> Path:
    """Make a backup of what lies in `draft`: from here on it counts. Returns its folder."""
    write_private(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(asdict(manifest))).decode())
    target = draft.with_name(manifest.name)
    draft.rename(target)
    flush_folder(target.parent)
    return target


def read(path: Path) -> Backup:
    """
    Raises:
        NotFound: no backup lies there.
        Invalid: its manifest is damaged, or of a later release.
    """
    file = path / MANIFEST
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no backup in {path}: `raymill backup list` shows the ones there are") from None
    try:
        written = msgspec.json.decode(text).get("format")
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, AttributeError) as error:
        if isinstance(error, msgspec.ValidationError) and written != FORMAT:
            raise _other_format(file, written) from error
        raise Invalid(f"{file} is damaged ({error}): take another backup") from error
    if manifest.format != FORMAT:
        raise _other_format(file, manifest.format)
    return Backup(path=path, manifest=manifest)


def _other_format(file: Path, found: object) -> Invalid:
    return Invalid(
        f"{file} has format {found}, this release reads {FORMAT}: restore with the one that made it"
    )


def find(folder: Path, name: str | None) -> Backup:
    """A backup by its name or its path; the newest one by default. Raises as `read`."""
    if name is not None:
        return read(folder / name if NAME.fullmatch(name) else Path(name).absolute())
    there = kept(folder)
    if not there:
        raise NotFound(f"no backup in {folder}: `raymill backup create` makes one")
    return there[-1]


def kept(folder: Path) -> list[Backup]:
    """Those in `folder`, the oldest first. What is damaged does not count."""
    found = []
    for path in _named(folder):
        try:
            found.append(read(path))
        except (NotFound, Invalid):
            continue
    return found


def damaged(folder: Path) -> list[Path]:
    """What is named like a backup and is none."""
    whole = {backup.path for backup in kept(folder)}
    return [path for path in _named(folder) if path not in whole]


def delete(backup: Backup) -> None:
    """From the first moment on it is none; its links in later backups stay."""
    going = backup.path.with_name(f"{OLD}{backup.path.name}")
    backup.path.rename(going)
    shutil.rmtree(going)


def _named(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if NAME.fullmatch(path.name))
