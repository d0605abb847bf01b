"""The store: what is published is there as a whole, never changes, and shows when somebody changed it."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import (
    ArtifactStore,
    Tampered,
    address_of,
    canonical_json,
    digest_files,
    tree_digest,
    verify_files,
)

NAME = "model/triage/0a1b2c3d4e5f"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def draft(tmp_path: Path, **files: str) -> Path:
    directory = tmp_path / "draft"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub" / "c.txt").write_text("c")
    for name, content in files.items():
        (directory / f"{name}.txt").write_text(content)
    return directory


def test_a_published_directory_is_moved_and_digested(store: ArtifactStore, tmp_path: Path) -> None:
    directory = draft(tmp_path, a="alpha", b="")
    published = store.publish(NAME, directory)
    assert not directory.exists()
    assert store.existing(NAME) == store.root / NAME
    assert [(file.path, file.size_bytes) for file in published.files] == [
        ("a.txt", 5),
        ("b.txt", 0),
        ("sub/c.txt", 1),
    ]
    assert published.files[0].sha256 == hashlib.sha256(b"alpha").hexdigest()
    assert published.size_bytes == 6
    verify_files(store.path(NAME), published.files)


def test_the_digest_is_that_of_sha256sum_lines(store: ArtifactStore, tmp_path: Path) -> None:
    published = store.publish(NAME, draft(tmp_path))
    line = f"{hashlib.sha256(b'c').hexdigest()}  sub/c.txt\n"
    assert published.digest == hashlib.sha256(line.encode()).hexdigest() == tree_digest(published.files)


def test_the_same_bytes_again_are_the_same_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    first = store.publish(NAME, draft(tmp_path, a="alpha"))
    again = draft(tmp_path, a="alpha")
    assert store.publish(NAME, again) == first
    assert not again.exists()


def test_what_a_dead_attempt_left_is_replaced(store: ArtifactStore, tmp_path: Path) -> None:
    store.publish(NAME, draft(tmp_path, a="half", b="leftover"))
    published = store.publish(NAME, draft(tmp_path, a="whole"))
    verify_files(store.path(NAME), published.files)


def test_a_reader_sees_all_of_an_artifact_or_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    files = {f"f{number}": "x" for number in range(50)}
    directory = draft(tmp_path, **files)
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(len(list(store.path(NAME).glob("*.txt"))))

    reader = threading.Thread(target=look)
    reader.start()
    store.publish(NAME, directory)
    done.set()
    reader.join()
    assert seen <= {0, 50}


@pytest.mark.parametrize("target", ["a.txt", "sub", "/etc/hostname", "nowhere"])
def test_a_symbolic_link_is_refused(store: ArtifactStore, tmp_path: Path, target: str) -> None:
    directory = draft(tmp_path, a="alpha")
    (directory / "link").symlink_to(target)
    with pytest.raises(Invalid, match="link is a symbolic link: copy the file it points to instead"):
        store.publish(NAME, directory)
    assert not store.path(NAME).exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("changed", r"a\.txt in artifact 0a1b2c3d4e5f has sha256 \w{12}, \w{12} was signed: restore it"),
        ("missing", r"a\.txt is missing from artifact 0a1b2c3d4e5f: restore it from a backup"),
        ("added", r"d\.txt was added to artifact 0a1b2c3d4e5f after it was signed: remove it"),
        ("gone", r"0a1b2c3d4e5f is missing from the artifact store"),
    ],
)
def test_damage_is_named(store: ArtifactStore, tmp_path: Path, damage: str, message: str) -> None:
    published = store.publish(NAME, draft(tmp_path, a="alpha"))
    directory = store.path(NAME)
    if damage == "changed":
        (directory / "a.txt").write_text("alphb")  # of the same size
    elif damage == "missing":
        (directory / "a.txt").unlink()
    elif damage == "added":
        (directory / "d.txt").write_text("")
    else:
        directory.rename(directory.with_name("elsewhere"))
    with pytest.raises(Tampered, match=message):
        verify_files(directory, published.files)


@pytest.mark.parametrize(
    "name",
    ["", "model", "model/triage", "../../etc", "model/../x", "/model/a/b", "model/A/b", f"m/{'a' * 65}/b"],
)
def test_a_name_that_could_leave_the_store_is_refused(store: ArtifactStore, name: str) -> None:
    with pytest.raises(Invalid, match="it must look like model/support-triage/0a1b2c3d4e5f"):
        store.path(name)


def test_what_was_never_published_is_not_found(store: ArtifactStore) -> None:
    with pytest.raises(NotFound, match=f"artifact {NAME} is not in"):
        store.existing(NAME)


def test_an_address_does_not_hang_on_the_order_of_keys() -> None:
    assert address_of("train", {"a": 1, "b": 2}, {"x": "1", "y": "2"}) == address_of(
        "train", {"b": 2, "a": 1}, {"y": "2", "x": "1"}
    )
    assert len({address_of(kind, {"a": value}, {}) for kind in ("train", "base") for value in (1, 2)}) == 4
    assert canonical_json({"b": "é", "a": [1, None]}) == '{"a":[1,null],"b":"é"}'.encode()


def test_files_in_folders_are_sorted_by_path(tmp_path: Path) -> None:
    directory = draft(tmp_path, z="", a="")
    assert [file.path for file in digest_files(directory)] == ["a.txt", "sub/c.txt", "z.txt"]
