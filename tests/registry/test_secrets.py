"""Envelopes: what goes in comes out, for its owner alone, whatever happens to the master keys but losing them."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import Tampered
from raymill.registry.secrets import SecretBox, master_key_id

SECRET = "sk-proj-0123456789"
MINE = {"owner": "provider-1", "secret_id": "key-1"}


@pytest.fixture
def box(tmp_path: Path) -> SecretBox:
    made = SecretBox(tmp_path / "secrets")
    made.create_if_missing()
    return made


def test_what_was_sealed_opens_and_cannot_be_read_in_between(box: SecretBox) -> None:
    sealed = box.seal(SECRET, **MINE)
    assert box.open(sealed, **MINE) == SECRET
    assert SECRET.encode() not in sealed
    assert sealed != box.seal(SECRET, **MINE)  # another nonce
    assert sealed[:1] == b"\x01"
    assert master_key_id(sealed) == box.current_id()


@given(text=st.text(max_size=200), owner=st.text(max_size=20), secret_id=st.text(max_size=20))
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, text: str, owner: str, secret_id: str
) -> None:
    box = SecretBox(tmp_path_factory.getbasetemp() / "any")
    box.create_if_missing()
    sealed = box.seal(text, owner=owner, secret_id=secret_id)
    assert box.open(sealed, owner=owner, secret_id=secret_id) == text


@pytest.mark.parametrize(
    "other",
    [
        {"owner": "provider-2", "secret_id": "key-1"},
        {"owner": "provider-1", "secret_id": "key-2"},
        {"owner": "provider-1k", "secret_id": "ey-1"},
    ],
)
def test_a_secret_copied_to_another_row_does_not_open(box: SecretBox, other: dict[str, str]) -> None:
    with pytest.raises(Tampered, match="not what was sealed"):
        box.open(box.seal(SECRET, **MINE), **other)


def test_a_flipped_bit_anywhere_is_found(box: SecretBox) -> None:
    sealed = box.seal(SECRET, **MINE)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises((Tampered, Invalid, NotFound)):
            box.open(bytes(changed), **MINE)


@pytest.mark.parametrize("length", [0, 1, 9, 36])
def test_what_is_cut_off_or_no_envelope_is_called_that(box: SecretBox, length: int) -> None:
    with pytest.raises(Invalid, match="is no envelope of ours"):
        box.open(box.seal(SECRET, **MINE)[:length], **MINE)
    with pytest.raises(Invalid, match="is no envelope of ours"):
        box.open(b"\x02" * 60, **MINE)


# --- master keys ------------------------------------------------------------------------------------------


def test_rotating_the_master_key_makes_no_secret_unreadable_P8(box: SecretBox) -> None:
    sealed = [box.seal(SECRET, **MINE)]
    for _ in range(3):
        box.rotate()
        sealed.append(box.seal(SECRET, **MINE))
    assert len({master_key_id(each) for each in sealed}) == 4
    assert {box.open(each, **MINE) for each in sealed} == {SECRET}


def test_resealing_moves_a_secret_under_the_newest_master_key(box: SecretBox) -> None:
    old = box.seal(SECRET, **MINE)
    assert box.reseal(old, **MINE) == old
    box.rotate()
    new = box.reseal(old, **MINE)
    assert master_key_id(new) == box.current_id() != master_key_id(old)
    (box.directory / f"{master_key_id(old)}.key").unlink()
    assert box.open(new, **MINE) == SECRET
    with pytest.raises(NotFound, match=rf"restore .*{master_key_id(old)}\.key from a backup"):
        box.open(old, **MINE)


def test_a_master_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    box = SecretBox(tmp_path / "state" / "secrets")
    with pytest.raises(NotFound, match=r"no master key at .*current: make one with `raymill up`"):
        box.seal(SECRET, **MINE)
    with pytest.raises(NotFound):
        box.rotate()
    key_id = box.create_if_missing()
    assert box.create_if_missing() == key_id
    modes = {path.name: path.stat().st_mode & 0o777 for path in box.directory.iterdir()}
    assert modes == {f"{key_id}.key": 0o600, "current": 0o600, "lock": modes["lock"]}
    assert box.directory.stat().st_mode & 0o777 == 0o700


def test_a_lost_master_key_says_what_to_restore_and_a_new_one_can_be_made(box: SecretBox) -> None:
    lost = box.directory / f"{box.current_id()}.key"
    lost.unlink()
    with pytest.raises(NotFound, match=r"restore it from a backup, or go on with a new one by `raymill"):
        box.seal(SECRET, **MINE)
    box.rotate()
    assert box.open(box.seal(SECRET, **MINE), **MINE) == SECRET


def test_a_master_key_that_others_may_read_or_that_is_another_is_refused(box: SecretBox) -> None:
    file = box.directory / f"{box.current_id()}.key"
    file.chmod(0o640)
    with pytest.raises(Invalid, match="has mode 0640, others may read it: chmod 600"):
        box.seal(SECRET, **MINE)
    file.chmod(0o600)
    for content in ("nonsense", "", os.urandom(32).hex()):
        file.write_text(content)
        with pytest.raises(Invalid, match="does not hold the master key"):
            box.seal(SECRET, **MINE)


def make_key(directory: str) -> str:
    return SecretBox(Path(directory)).create_if_missing()


def test_processes_that_make_the_master_key_at_once_agree_on_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        made = pool.map(make_key, [str(tmp_path / "secrets")] * 6, chunksize=1)
    assert len(set(made)) == 1
    assert len(list((tmp_path / "secrets").glob("*.key"))) == 1
