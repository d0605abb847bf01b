"""Artifacts behind a URL: on a local S3, on a shared folder and in fsspec's memory, with a cache for each node."""

from __future__ import annotations

import datetime as dt
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.registry.object_server import s3_server

from raymill.cluster.artifact_checks import check_artifacts
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, NotFound, Unavailable
from raymill.registry import failpoints
from raymill.registry.artifact_access import checked
from raymill.registry.artifact_cache import Cache
from raymill.registry.artifacts import FileDigest, Published, Tampered, verify_files
from raymill.registry.object_files import ObjectFiles
from raymill.registry.object_store import ObjectStore

NAME = "model/triage/0a1b2c3d4e5f"
KIB = 1 << 10


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["s3", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return at(request.getfixturevalue("s3") if request.param == "s3" else request.param, tmp_path)


@pytest.fixture
def shared(tmp_path: Path) -> str:
    return at("file", tmp_path)


def at(place: str, tmp_path: Path) -> str:
    """A prefix of this test's own."""
    starts = {"file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}
    return f"{starts.get(place, place)}/{tmp_path.name}/store"


def node(url: str, tmp_path: Path, name: str = "a", limit_bytes: int = 64 * KIB) -> ObjectStore:
    return ObjectStore(ObjectFiles(url), Cache(tmp_path / f"cache-{name}", limit_bytes))


def draft(tmp_path: Path, **files: str) -> Path:
    directory = tmp_path / "draft"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub" / "c.txt").write_text("c")
    for name, content in files.items():
        (directory / f"{name}.txt").write_text(content)
    return directory


def sized(store: ObjectStore, tmp_path: Path, number: int, size_bytes: int = 10 * KIB) -> Published:
    """An artifact of so many bytes."""
    directory = tmp_path / "draft"
    directory.mkdir()
    (directory / "a.bin").write_bytes(bytes([number]) * size_bytes)
    return store.publish(f"model/triage/{number:012x}", directory)


def in_a_fork(work: Callable[[], object]) -> int:
    """How a copy of this process ended that did `work`: 0, or as `os.waitstatus_to_exitcode` says."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:  # whatever happened, the child never returns into pytest
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_one_node_publishes_another_reads(url: str, tmp_path: Path) -> None:
    one, other = node(url, tmp_path, "a"), node(url, tmp_path, "b")
    directory = draft(tmp_path, a="alpha", b="")
    published = one.publish(NAME, directory)
    assert not directory.exists()
    assert one.place(NAME, published.digest).is_dir()
    with other.hold(NAME, published.digest) as path:
        verify_files(path, published.files)
        assert path == other.place(NAME, published.digest)
    other.verify(NAME, published.files)
    assert other.holds(NAME, published.files)
    with other.reading(NAME, published.digest, "sub/c.txt") as file:
        assert file.read() == b"c"


def test_one_file_is_read_without_the_others(url: str, tmp_path: Path) -> None:
    published = node(url, tmp_path, "a").publish(NAME, draft(tmp_path, a="alpha"))
    other = node(url, tmp_path, "b")
    with other.hold_file(NAME, published.files[0]) as path:
        assert path.read_text() == "alpha"
    assert list(other._cache.entries().values()) == [5]
    with (
        pytest.raises(Tampered, match=r"a\.txt in artifact .* is not what was registered"),
        other.hold_file(NAME, FileDigest(path="a.txt", size_bytes=5, sha256="0" * 64)),
    ):
        pass


def test_bytes_that_changed_in_the_store_reach_nobody(url: str, tmp_path: Path) -> None:
    published = node(url, tmp_path, "a").publish(NAME, draft(tmp_path, a="alpha"))
    other = node(url, tmp_path, "b")
    fs, tree = other.objects._at(NAME, published.digest)
    fs.pipe_file(f"{tree}/a.txt", b"alphb")
    with (
        pytest.raises(Tampered, match=r"has digest \w{12}, \w{12} was registered"),
        other.hold(NAME, published.digest),
    ):
        pass
    assert not other.place(NAME, published.digest).exists()
    with pytest.raises(Tampered, match=r"a\.txt in artifact model/triage/0a1b2c3d4e5f has sha256"):
        other.verify(NAME, published.files)
    fs.rm_file(f"{tree}/a.txt")
    assert not other.holds(NAME, published.files)
    with pytest.raises(Tampered, match=r"a\.txt is missing from artifact"):
        other.verify(NAME, published.files)


def test_what_was_never_published_is_not_found(url: str, tmp_path: Path) -> None:
    store = node(url, tmp_path)
    with pytest.raises(NotFound, match=f"artifact {NAME} is not in"), store.hold(NAME, "0" * 64):
        pass
    assert not store.holds(NAME, (FileDigest(path="a", size_bytes=1, sha256="0" * 64),))


def test_a_copy_that_the_disk_spoiled_is_made_anew(shared: str, tmp_path: Path) -> None:
    store = node(shared, tmp_path)
    published = store.publish(NAME, draft(tmp_path, a="alpha"))
    path = store.here(store.place(NAME, published.digest))
    (path / "a.txt").write_text("alphb")
    checked(store, path, lambda: verify_files(path, published.files))
    assert (path / "a.txt").read_text() == "alpha"
    assert store.here(tmp_path) == tmp_path
    assert not store.refresh(tmp_path)


def test_a_killed_upload_is_seen_by_nobody_and_done_again(s3: str, tmp_path: Path) -> None:
    store = node(at(s3, tmp_path), tmp_path)
    directory = draft(tmp_path, a="alpha", b="beta")

    def die() -> None:
        failpoints._active["upload:before"] = 2
        store.publish(NAME, directory)

    assert in_a_fork(die) == failpoints.EXIT_CODE
    assert directory.is_dir()
    published = store.publish(NAME, directory)
    store.verify(NAME, published.files)


def test_a_killed_fetch_leaves_no_half_copy(shared: str, tmp_path: Path) -> None:
    published = node(shared, tmp_path, "a").publish(NAME, draft(tmp_path, a="alpha", b="beta"))
    other = node(shared, tmp_path, "b")

    class Killed(ObjectFiles):
        def get(self, name: str, digest: str, path: str, target: Path) -> FileDigest:
            super().get(name, digest, path, target)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("unreachable")

    def die() -> None:
        with ObjectStore(Killed(shared), other._cache).hold(NAME, published.digest):
            pass

    assert in_a_fork(die) == -signal.SIGKILL
    assert list((other._cache.root / "drafts").iterdir())
    assert not other.place(NAME, published.digest).exists()
    with other.hold(NAME, published.digest) as path:
        verify_files(path, published.files)
    assert not list((other._cache.root / "drafts").iterdir())


def test_two_processes_fetch_an_artifact_once(shared: str, tmp_path: Path) -> None:
    published = node(shared, tmp_path, "a").publish(NAME, draft(tmp_path, a="alpha"))
    log = tmp_path / "log"

    class Counted(ObjectFiles):
        def get(self, name: str, digest: str, path: str, target: Path) -> FileDigest:
            with log.open("a") as file:
                file.write(f"{path}\n")
            return super().get(name, digest, path, target)

    store = ObjectStore(Counted(shared), Cache(tmp_path / "cache-b", 64 * KIB))

    def fetch() -> None:
        with store.hold(NAME, published.digest) as path:
            verify_files(path, published.files)

    pid = os.fork()
    if pid == 0:
        try:
            fetch()
        finally:
            os._exit(0)
    fetch()
    os.waitpid(pid, 0)
    assert sorted(log.read_text().split()) == ["a.txt", "sub/c.txt"]


def test_the_least_recently_used_goes_first_and_none_that_is_held(shared: str, tmp_path: Path) -> None:
    maker = node(shared, tmp_path, "a", limit_bytes=1)  # keeps no copies
    made = [sized(maker, tmp_path, number) for number in range(4)]
    store = node(shared, tmp_path, "b", limit_bytes=35 * KIB)
    first, second, third, fourth = (store.place(each.name, each.digest) for each in made)
    for each in made[:3]:
        with store.hold(each.name, each.digest):
            pass
    runs = second.with_name(f".{second.name}.runs-8.npz")  # what others keep beside a copy
    runs.touch()
    with store.hold(made[0].name, made[0].digest), store.hold(made[3].name, made[3].digest):
        assert [path.exists() for path in (first, second, third, fourth)] == [True, False, True, True]
        assert not runs.exists()
        with (
            store.hold(made[2].name, made[2].digest),
            pytest.raises(Unavailable, match="lacks 5,120 bytes of room, and what is there is in use"),
            store.hold(made[1].name, made[1].digest),
        ):
            pass
    assert sum(store._cache.entries().values()) == 30 * KIB
    with store.hold(made[1].name, made[1].digest):
        assert sum(path.exists() for path in (first, second, third, fourth)) == 3
    large = sized(maker, tmp_path, 9, 36 * KIB)
    with pytest.raises(Invalid, match="36,864 bytes does not fit"), store.hold(large.name, large.digest):
        pass


def test_what_another_process_holds_stays(shared: str, tmp_path: Path) -> None:
    maker = node(shared, tmp_path, "a", limit_bytes=1)
    held, next_ = sized(maker, tmp_path, 1), sized(maker, tmp_path, 2)
    store = node(shared, tmp_path, "b", limit_bytes=15 * KIB)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        store.here(store.place(held.name, held.digest))  # until it ends, as a replica does
        os.write(writer, b"1")
        signal.pause()
    os.read(reader, 1)
    with pytest.raises(Unavailable, match="is in use"), store.hold(next_.name, next_.digest):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with store.hold(next_.name, next_.digest) as path:
        verify_files(path, next_.files)
    assert not store.place(held.name, held.digest).exists()


def test_uploads_in_parts_that_nobody_ended_are_given_up(s3: str, tmp_path: Path) -> None:
    objects = ObjectFiles(at(s3, tmp_path))
    fs, root = objects._at("model", "x")
    bucket, _, key = root.partition("/")
    fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    (begun,) = (each["Initiated"] for each in fs.list_multipart_uploads(bucket))
    assert objects.drop_unfinished(begun) == 0
    assert objects.drop_unfinished(begun + dt.timedelta(seconds=1)) == 1
    assert fs.list_multipart_uploads(bucket) == []


def test_the_doctor_names_what_a_store_lacks(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(url: str) -> tuple[str, str]:
        first = next(check_artifacts(Settings(home=tmp_path, artifacts_url=url)))
        return first.state, f"{first.found} -> {first.cure}"

    assert found(f"{s3}/prefix") == ("ok", f"{s3}/prefix can be written and read -> ")
    state, text = found("s3://no-such-bucket")
    assert (state, "make the bucket" in text) == ("fail", True)
    state, text = found("nowhere://x")
    assert (state, "write s3://BUCKET/PREFIX" in text) == ("fail", True)
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    state, text = found(s3)
    assert (state, "set AWS_ACCESS_KEY_ID" in text) == ("fail", True), text
    S3FileSystem.clear_instance_cache()
    assert list(check_artifacts(Settings(home=tmp_path))) == []
