"""Backups of a real service's home, with a PostgreSQL of their own: taken under writes, killed, damaged, restored."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from pydantic import SecretStr
from tests.registry.making import ADA, World, make_pipeline

from raymill.cluster.artifact_copy import copy_all
from raymill.cluster.backup import artifacts, manifest, prove, schedule, stream, wal
from raymill.cluster.backup.create import create
from raymill.cluster.backup.restore import restore, verify
from raymill.cluster.settings import Settings
from raymill.policies.errors import Conflict, Denied, Invalid, NotFound
from raymill.registry import audit, failpoints
from raymill.registry.artifacts import Tampered
from raymill.registry.object_store import ObjectStore
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.uploads import DiskFull

PASSPHRASE = "a passphrase of the tests"


class Home(NamedTuple):
    """What `raymill up` would have made, without Ray."""

    settings: Settings
    world: World
    version: int
    first: manifest.Backup
    proof: prove.Proof
    written: int
    """Rows of the audit log that were written while the first backup was taken."""


class Source(EmbeddedPostgres):
    """One that leaves writing to the operating system, as only a lost machine would show."""

    def _settings(self, port: int) -> dict[str, str | int]:
        return {**super()._settings(port), "fsync": "off"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not tmp_path: pytest makes that 0700, and root's PostgreSQL runs as a user who must pass through.
    path = Path(tempfile.mkdtemp(prefix="raymill-backup-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def home(folder: Path) -> Iterator[Home]:
    """A home with a promoted version, backed up and proven while others wrote to its database."""
    settings = Settings(
        home=folder / "home", backup_dir=folder / "backups", backup_passphrase=SecretStr(PASSPHRASE)
    )
    server = Source(settings.home / "postgres")
    server.ensure_running()
    settings.secret_box.create_if_missing()
    database = settings.open_database()
    database.migrate()
    world = World(database, settings.home)
    version = world.make_version()
    world.promote(version)
    receiver = in_a_fork(lambda: stream.receive(settings))
    first, written = backed_up_while_others_write(settings)
    yield Home(settings, world, version, first, prove.prove(first, passphrase=PASSPHRASE), written)
    database.close()
    os.kill(receiver, signal.SIGKILL)
    os.waitpid(receiver, 0)
    throw_away(server)


def throw_away(server: EmbeddedPostgres) -> None:
    """Not `stop`, which writes everything out first."""
    if (pid := server.pid()) is not None:
        os.kill(pid, signal.SIGQUIT)
    while server.is_running():
        time.sleep(0.02)


def backed_up_while_others_write(settings: Settings) -> tuple[manifest.Backup, int]:
    stopping, counts = threading.Event(), [0, 0]

    def write(number: int) -> None:
        database = settings.open_database(pool_size=1)
        while not stopping.is_set():
            make_pipeline(database, name=f"writer-{number}")
            with database.transaction() as session:
                audit.record(session, ADA, "test.write", f"writer/{number}", count=counts[number])
            counts[number] += 1
            time.sleep(0.01)
        database.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        backup = create(settings, settings.backups_dir)
    finally:
        stopping.set()
        for writer in writers:
            writer.join()
    return backup, sum(counts)


def in_a_fork(work: Callable[[], object]) -> int:
    """Run `work` in a copy of this process, which another one need not import. Returns its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:  # whatever happened, the child never returns into pytest
            os._exit(1)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def gone_at(settings: Settings, place: str) -> None:
    failpoints._active[place] = 1
    create(settings, settings.backups_dir)


def names(settings: Settings) -> list[str]:
    return [backup.path.name for backup in manifest.kept(settings.backups_dir)]


def test_what_was_backed_up_under_writes_is_restored_to_the_row(home: Home) -> None:
    proof, written = home.proof, home.first.manifest
    assert (proof.ok, proof.differences, proof.keys) == (True, (), "opened")
    assert proof.rows == written.rows > 0
    assert proof.artifacts == len(written.artifacts) == 4
    assert proof.audit_rows == written.audit_rows
    assert 0 < proof.audit_vouched <= proof.audit_rows
    assert proof.rto_s > 0
    assert proof.rpo_s > proof.rto_s
    assert written.writers_waited_s < 5
    assert home.first.proof is not None
    with home.world.database.transaction() as session:
        now = audit.verify(session).rows
    assert home.written > 4  # they did write
    assert now > written.audit_rows  # and went on after the moment
    clear = [
        path for path in home.first.path.rglob("*") if path.name in {"signing.key", "current", "admin.key"}
    ]
    assert clear == []


def test_a_second_backup_copies_no_artifact_again_and_a_restored_home_that_was_changed_is_found(
    home: Home, folder: Path
) -> None:
    settings = home.settings
    backup = create(settings, settings.backups_dir)
    files = [path for path in (backup.path / "artifacts").rglob("*") if path.is_file()]
    assert min(path.stat().st_nlink for path in files) == 2
    own = sum(file.size_bytes for file in backup.manifest.files)
    assert backup.manifest.copied_bytes == own
    target = folder / "restored"
    target.mkdir()

    with pytest.raises(Invalid, match="RAYMILL_BACKUP_PASSPHRASE must be the one"):
        restore(backup, target, passphrase="another passphrase")
    restore(backup, target, passphrase=PASSPHRASE)

    restored = Settings(home=target)
    assert restored.home_id != settings.home_id
    assert restored.secret_box.current_id() == settings.secret_box.current_id()
    assert (target / "keys" / "signing" / "signing.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="is not empty: name a folder"):
        restore(backup, target)
    server = EmbeddedPostgres(target / "postgres")
    server.ensure_running()
    try:
        assert prove.compare(target, backup).ok
        with pytest.raises(Conflict, match="stop it with `raymill down`"):
            prove.compare_home(target, backup)
        with psycopg.connect(restored.postgres_dsn) as changing:
            changing.execute(
                "UPDATE evaluation SET score = score + 0.01 WHERE id = (SELECT id FROM evaluation LIMIT 1)"
            )
        model = next(each for each in backup.manifest.artifacts if each.name.startswith("model/"))
        (target / "artifacts" / model.name / "model.safetensors").write_bytes(b"others")
        found = prove.compare(target, backup)
    finally:
        throw_away(server)
    assert not found.ok
    assert [each.partition(" has ")[0] for each in found.differences] == [
        "table evaluation",
        f"model.safetensors in artifact {model.name.rpartition('/')[2]}",
    ]


def test_a_damaged_backup_is_refused_by_the_name_of_the_file(home: Home, folder: Path) -> None:
    copy = manifest.read(Path(shutil.copytree(home.first.path, folder / "damaged", copy_function=os.link)))
    file = damage(copy.path / "database" / "base.tar")
    with pytest.raises(Tampered, match=f"{file} is damaged"):
        restore(copy, folder / "none")
    assert not [path for path in folder.iterdir() if path.name.startswith("none")]
    shutil.copy2(home.first.path / "database" / "base.tar", file)
    file = damage(next(path for path in sorted(copy.path.glob("artifacts/**/*.safetensors"))))
    with pytest.raises(Tampered, match=f"{file} is damaged"):
        verify(copy)
    shutil.rmtree(copy.path)


def damage(file: Path) -> Path:
    """Flip a bit of a file that may be linked elsewhere."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)
    return file


def test_the_received_wal_brings_a_backup_to_the_last_commit(home: Home, folder: Path) -> None:
    with home.world.database.transaction() as session:
        audit.record(session, ADA, "test.last", "row")
    with psycopg.connect(home.settings.postgres_dsn) as connection:
        lsn = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        flushed = (
            "SELECT max(flush_lsn) >= %s FROM pg_stat_replication WHERE application_name = 'pg_receivewal'"
        )
        begun = time.monotonic()
        while connection.execute(flushed, lsn).fetchone() != (True,):
            assert time.monotonic() - begun < 30
            time.sleep(0.01)

    until = restore(home.first, folder / "newest", newest=True, link=True)

    assert until > home.first.manifest.moment
    server = EmbeddedPostgres(folder / "newest" / "postgres")
    server.ensure_running()
    try:
        restored = Settings(home=folder / "newest").open_database()
        with restored.transaction() as session, home.world.database.transaction() as source:
            assert audit.verify(session) == audit.verify(source)
        restored.close()
    finally:
        throw_away(server)


def test_the_wal_of_a_service_that_was_restored_from_the_same_backup_is_not_mixed_in(
    home: Home, folder: Path
) -> None:
    dsn = SecretStr(home.settings.postgres_dsn)
    twin = Settings.model_validate(
        {"home": folder / "twin", "backup_dir": home.settings.backup_dir, "database_url": dsn}
    )
    (owner,) = home.settings.backups_dir.glob("wal/*/owner")
    there = sorted(path.name for path in owner.parent.iterdir())
    with pytest.raises(Conflict, match=rf"of another service, at {home.settings.home}, .* of its own"):
        stream.receive(twin)
    assert sorted(path.name for path in owner.parent.iterdir()) == there
    assert stream.segments_after(home.first)
    other = dataclasses.replace(home.first.manifest, home=twin.home_id)
    with pytest.raises(Conflict, match="restore that to its own moment"):
        stream.segments_after(dataclasses.replace(home.first, manifest=other))


def test_artifacts_at_a_url_are_copied_into_a_backup(home: Home, folder: Path) -> None:
    there = {"artifacts_url": f"file://{folder}/store", "backup_dir": folder / "of-url"}
    settings = home.settings.model_copy(update=there)
    store = settings.artifacts
    assert isinstance(store, ObjectStore)
    copy_all(home.world.database, home.world.store, store)
    backup = create(settings, settings.backups_dir)
    assert backup.manifest.lost == ()
    proof = prove.prove(backup, passphrase=PASSPHRASE)
    assert (proof.ok, proof.artifacts) == (True, len(home.first.manifest.artifacts))

    damaged = next((folder / "store").rglob("*.safetensors"))
    damaged.write_bytes(b"others")
    _, whole, lost = artifacts.take(backup.manifest.artifacts, store, folder / "taken", artifacts.Pool(()))
    assert [name.split("/")[0] for name in lost] == [damaged.relative_to(folder / "store").parts[0]]
    assert len(whole) == proof.artifacts - 1


def test_a_backup_that_was_killed_does_not_count_and_is_cleared_away_by_the_next(home: Home) -> None:
    settings = home.settings
    before = names(settings)
    pid = in_a_fork(lambda: create(settings, settings.backups_dir))
    while not list(settings.backups_dir.glob(".new-*/database/base.tar")):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL
    assert names(settings) == before

    # All is there, but for the name.
    assert exit_code(in_a_fork(lambda: gone_at(settings, "backup:written"))) == failpoints.EXIT_CODE
    (left,) = settings.backups_dir.glob(".new-*")
    assert names(settings) == before
    with pytest.raises(NotFound, match="no backup in"):
        manifest.read(left)


def test_a_backup_that_will_not_fit_or_may_not_be_taken_is_refused_with_a_cure(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = home.settings
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 300 << 20))
        with pytest.raises(DiskFull, match=r"a backup takes about [\d,]+ bytes .* RAYMILL_BACKUP_KEEP"):
            create(settings, settings.backups_dir)
        with pytest.raises(DiskFull, match="name a folder on a larger disk"):
            restore(home.first, settings.home.with_name("full"))
    told = wal.refusal(
        'FATAL:  no pg_hba.conf entry for replication connection from host "10.0.0.7", user "app"', "app"
    )
    assert isinstance(told, Denied)
    address, environment = wal.without_password("postgresql://app:one@db/raymill?sslpassword=two")
    assert (address, environment["PGPASSWORD"]) == ("user=app dbname=raymill host=db", "one")
    assert "add `host replication app ADDRESS scram-sha-256` to the server's pg_hba.conf" in str(told)
    older = dataclasses.replace(
        home.first, manifest=dataclasses.replace(home.first.manifest, postgres_major=16)
    )
    with pytest.raises(Invalid, match="is of PostgreSQL 16, the server here is 18"):
        restore(older, settings.home.with_name("older"))


def test_old_backups_go_once_enough_newer_ones_were_proven(home: Home, tmp_path: Path) -> None:
    assert schedule.is_due(tmp_path, 3600)
    for day, proven in enumerate([True, True, False, True, False], start=1):
        draft = tmp_path / f".new-{day}"
        draft.mkdir()
        made = manifest.write(draft, dataclasses.replace(home.first.manifest, name=f"2020010{day}T000000Z"))
        if proven:
            (made / manifest.PROOF).write_text('{"at": "2020-01-01T00:00:00+00:00"}')
    assert schedule.is_due(tmp_path, 3600)
    assert not schedule.is_due(tmp_path, 1e9)
    written = home.first.manifest
    first = min(path.name for path in (home.first.path / "wal").glob("0*"))
    for backup in manifest.kept(tmp_path):
        (backup.path / "wal").mkdir()
        (backup.path / "wal" / first).touch()
    day_ago = time.time() - 86_400
    for timeline, names_there in (
        (written.timeline, ["0" * 24, first]),
        (8, [f"{8:08X}{0:016X}"]),  # a former one: no backup is of it any more
        (9, [f"{9:08X}{0:016X}", f"{9:08X}{1:016X}.partial"]),  # one that a service receives
    ):
        received = tmp_path / "wal" / f"{written.system}-{timeline}"
        received.mkdir(parents=True)
        for name in names_there:
            (received / name).touch()
            if timeline == 8:
                os.utime(received / name, (day_ago, day_ago))
    assert schedule.prune(tmp_path, 3) == []
    assert sorted(str(path.relative_to(tmp_path / "wal")) for path in tmp_path.glob("wal/*/*")) == [
        f"{written.system}-{written.timeline}/{first}",
        f"{written.system}-9/{9:08X}{1:016X}.partial",
    ]
    assert not (tmp_path / "wal" / f"{written.system}-8").exists()
    assert schedule.prune(tmp_path, 2) == ["20200101T000000Z"]
    assert schedule.prune(tmp_path, 1) == ["20200102T000000Z", "20200103T000000Z"]
    assert names(home.settings.model_copy(update={"backup_dir": tmp_path})) == [
        "20200104T000000Z",
        "20200105T000000Z",
    ]
