"""Master keys: rotated under load, killed in the middle, retired when nothing is left under them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.registry.making import ADA

from raymill.policies.errors import Conflict, NotFound
from raymill.registry import master_keys, provider_keys, providers, triggers
from raymill.registry.database import Database
from raymill.registry.failpoints import EXIT_CODE
from raymill.registry.secrets import SecretBox, master_key_id
from raymill.registry.tables import ProviderKey

REWRAP = """
import sys
from pathlib import Path
from raymill.registry import master_keys
from raymill.registry.audit import SYSTEM
from raymill.registry.database import Database
from raymill.registry.secrets import SecretBox
print(master_keys.rewrap(Database(sys.argv[1]), SecretBox(Path(sys.argv[2])), SYSTEM, batch_rows=4))
"""


@pytest.fixture
def box(tmp_path: Path) -> SecretBox:
    made = SecretBox(tmp_path / "secrets")
    made.create_if_missing()
    return made


@pytest.fixture
def registry(database: Database, box: SecretBox) -> Database:
    """Ten keys of a provider and a trigger with a secret."""
    with database.transaction() as session:
        providers.add(session, "openai", ADA, preset="openai")
        for number in range(10):
            provider_keys.set_key(session, box, "openai", f"k{number}", f"secret-{number}", ADA)
        triggers.create(session, "git", ADA, on="webhook", config={}, recipe={}, box=box)
    return database


def used(database: Database, box: SecretBox) -> dict[str, int]:
    with database.transaction() as session:
        return {each.id: each.secrets for each in master_keys.list_versions(session, box)}


def opened(database: Database, box: SecretBox) -> list[str]:
    with database.transaction() as session:
        rows = session.scalars(select(ProviderKey).order_by(ProviderKey.id))
        return [provider_keys.open_key(box, row) for row in rows]


def retire(database: Database, box: SecretBox, key_id: str, *, quiet_s: float = 0.0) -> None:
    with database.transaction() as session:
        master_keys.retire(session, box, key_id, ADA, quiet_s=quiet_s)


def test_a_rotation_that_is_killed_is_gone_on_with(registry: Database, box: SecretBox) -> None:
    old, secrets = box.current_id(), opened(registry, box)
    new = box.rotate()

    def rewrap(failpoints: str) -> subprocess.CompletedProcess[str]:
        url = registry.url.render_as_string(hide_password=False)
        command = [sys.executable, "-c", REWRAP, url, str(box.directory)]
        environment = {**os.environ, "RAYMILL_FAILPOINTS": failpoints}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert rewrap("rewrap:after=exit,rewrap:before=2*exit").returncode == EXIT_CODE
    assert used(registry, box) == {new: 4, old: 7}
    assert rewrap("rewrap:before=exit").returncode == EXIT_CODE
    assert used(registry, box) == {new: 4, old: 7}
    assert opened(registry, box) == secrets
    with pytest.raises(Conflict, match=f"7 secrets are sealed under {old}: `raymill master-key rewrap`"):
        retire(registry, box, old)
    done = rewrap("")
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
    assert used(registry, box) == {new: 11, old: 0}
    with pytest.raises(Conflict, match=f"a process may still use {old}: wait"):
        retire(registry, box, old, quiet_s=60)
    with pytest.raises(Conflict, match="is the current master key"):
        retire(registry, box, new)
    retire(registry, box, old)
    assert opened(registry, box) == secrets
    with pytest.raises(NotFound, match="`raymill master-key list`"):
        retire(registry, box, old)


def test_secrets_stay_readable_and_writable_while_they_are_sealed_anew(
    registry: Database, box: SecretBox
) -> None:
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with registry.transaction() as session:
                provider_keys.set_key(session, box, "openai", "busy", f"new-{number}", ADA)
            assert f"new-{number}" in opened(registry, box)

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        counts = [master_keys.rotate(registry, box, ADA) for _ in range(3)]
        stop.set()
        working.result()
    assert min(counts) >= 11
    master_keys.rewrap(registry, box, ADA)
    assert set(used(registry, box).values()) == {0, 12}


def test_one_that_does_not_open_is_told_and_stops_no_other(registry: Database, box: SecretBox) -> None:
    lost = box.current_id()
    box.rotate()
    with registry.transaction() as session:
        provider_keys.set_key(session, box, "openai", "later", "secret-later", ADA)
    middle = box.current_id()
    (box.directory / f"{lost}.key").rename(box.directory / "away")
    with pytest.raises(NotFound, match=rf"restore .*{lost}\.key from a backup"):
        master_keys.rotate(registry, box, ADA)
    assert used(registry, box) == {box.current_id(): 1, lost: 11, middle: 0}
    (box.directory / "away").rename(box.directory / f"{lost}.key")
    assert master_keys.rewrap(registry, box, ADA) == 11
    with registry.transaction() as session:
        rows = session.scalars(select(ProviderKey))
        assert {master_key_id(row.sealed) for row in rows} == {box.current_id()}
