"""Files of artifacts behind a URL that fsspec knows: `s3://`, `gs://`, `file://`.

    <url>/<kind>/<name>/<address>/<digest>/<path>

`digest` is that of all the files (`artifacts.tree_digest`), so a tree is found by its row alone and checked by its own
name: no object is renamed, or written to twice with other bytes. Knows of no copies. Credentials, regions and endpoints
are taken from where the store's own library takes them. Every method raises as `object_errors.told`.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from raymill.registry.artifacts import FileDigest, flush, sha256_file
from raymill.registry.failpoints import failpoint
from raymill.registry.object_errors import told

T = TypeVar("T")
R = TypeVar("R")

TRANSFERS = 4
"""Files that travel at once; a large one travels in parts of its own beside that."""

READ_BYTES = 16 << 20
"""Asked for at once where a file is read without a copy."""

DRAFT = ".draft-"
"""How files at the root of a folder begin that are being written."""

OWNER = ".owner"
"""File at the root: the id of the home whose engine deletes what nobody registered."""

NAME_PARTS = 3
"""Of an artifact's name; the digest is the next one."""


class Tree(NamedTuple):
    """What was uploaded under a name and a digest."""

    name: str
    digest: str
    newest: dt.datetime
    """When the last of its files was written, by the store's clock."""


class ObjectFiles:
    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def put(self, name: str, digest: str, directory: Path, files: Sequence[FileDigest]) -> None:
        """Upload `files` of `directory`. They are in the store for good when this returns."""
        with told(self.url):
            fs, tree = self._at(name, digest)
            _, root = self._at()
            local = "file" in fs.protocol

            def put(file: FileDigest) -> None:
                failpoint("upload:before")
                target = f"{tree}/{file.path}"
                if not local:
                    fs.put_file(str(directory / file.path), target)
                    return
                # A copy would be written over what may be registered already, and a kill would leave it cut short.
                draft = Path(root) / f"{DRAFT}{uuid.uuid4().hex}"
                fs.put_file(str(directory / file.path), str(draft))
                flush(draft)
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                draft.replace(target)

            at_once(put, files)
            if local:
                for folder in {(Path(tree) / file.path).parent for file in files}:
                    flush(folder)
        failpoint("upload:after")

    def get(self, name: str, digest: str, path: str, target: Path) -> FileDigest:
        """Copy one file to this disk, and tell what came."""
        with told(self.url):
            fs, tree = self._at(name, digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{tree}/{path}", str(target))
            flush(target)
        return FileDigest(path=path, size_bytes=target.stat().st_size, sha256=sha256_file(target))

    @contextmanager
    def reading(self, name: str, digest: str, path: str) -> Iterator[BinaryIO]:
        with told(self.url):
            fs, tree = self._at(name, digest)
            with fs.open(f"{tree}/{path}", "rb", block_size=READ_BYTES) as file:
                yield file

    def sizes(self, name: str, digest: str) -> dict[str, int]:
        """Path of each file that is there -> bytes; empty where there is no such tree."""
        with told(self.url):
            fs, tree = self._at(name, digest)
            listed = fs.find(tree, detail=True)
        return {path[len(tree) + 1 :]: int(about["size"]) for path, about in listed.items()}

    def digests(self, name: str) -> list[str]:
        """Of the trees that were uploaded under a name."""
        with told(self.url):
            fs, above = self._at(name)
            return sorted({path[len(above) + 1 :].split("/")[0] for path in fs.find(above)})

    def trees(self) -> list[Tree]:
        """All that was ever uploaded and not deleted."""
        with told(self.url):
            fs, root = self._at()
            listed = fs.find(root, detail=True)
        found: dict[tuple[str, str], Tree] = {}
        for path, about in listed.items():
            parts = path[len(root) + 1 :].split("/")
            if len(parts) <= NAME_PARTS + 1:
                continue  # no file of ours
            name, digest, written = "/".join(parts[:NAME_PARTS]), parts[NAME_PARTS], _written(about)
            before = found.get((name, digest))
            newest = written if before is None else max(before.newest, written)
            found[name, digest] = Tree(name, digest, newest)
        return list(found.values())

    def delete(self, tree: Tree) -> None:
        """Delete a tree, unless something of it was uploaded since it was listed."""
        with told(self.url):
            fs, place = self._at(tree.name, tree.digest)
            now = fs.find(place, detail=True)
            if now and max(map(_written, now.values())) == tree.newest:
                fs.rm(list(now))

    def owner(self, mine: str) -> str:
        """Which service may delete here: `mine` from the first time on that nothing lies here yet; empty: nobody said."""
        with told(self.url):
            fs, place = self._at(OWNER)
            if fs.exists(place):
                return str(fs.cat_file(place).decode()).strip()
        if self.trees():
            return ""
        with told(self.url):
            fs.pipe_file(place, mine.encode())
        return mine

    def drop_unfinished(self, before: dt.datetime) -> int:
        """Give up uploads that were begun before then and not ended: drafts in a folder, parts that S3 keeps and charges for.
        Returns how many.
        """
        with told(self.url):
            fs, root = self._at()
            if "file" in fs.protocol:
                old = [
                    draft
                    for draft in Path(root).glob(f"{DRAFT}*")
                    if draft.stat().st_mtime < before.timestamp()
                ]
                for draft in old:
                    draft.unlink(missing_ok=True)
                return len(old)
            if not hasattr(fs, "list_multipart_uploads"):
                return 0
            bucket, _, prefix = root.partition("/")
            if not prefix:
                return 0  # others may upload into the bucket too
            going = [
                each
                for each in fs.list_multipart_uploads(bucket)
                if each["Key"].startswith(f"{prefix}/") and each["Initiated"] < before
            ]
            for each in going:
                fs.call_s3(
                    "abort_multipart_upload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"]
                )
        return len(going)

    def probe(self, name: str) -> None:
        """Write, read, list and delete a file called `name`."""
        with told(self.url):
            fs, path = self._at(name)
            content = name.encode()
            fs.pipe_file(path, content)
            try:
                if fs.cat_file(path) != content or path not in fs.find(path.rpartition("/")[0]):
                    raise OSError("what was written is not what is read")
            finally:
                fs.rm_file(path)

    def _at(self, *parts: str) -> tuple[Any, str]:
        """fsspec keeps one file system for each process and URL. Lists are never kept: other nodes write."""
        import fsspec

        local = {"auto_mkdir": True} if self.url.startswith("file:") else {}
        fs, root = fsspec.url_to_fs(self.url, use_listings_cache=False, **local)
        return fs, "/".join((root.rstrip("/"), *parts))


def at_once(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`map`, with some at a time. The first error ends it."""
    with ThreadPoolExecutor(TRANSFERS) as threads:
        try:
            return list(threads.map(work, items))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _written(about: dict[str, Any]) -> dt.datetime:
    """When an object was written, by the store's own clock and by its own name for that."""
    found = next(
        (about[key] for key in ("LastModified", "mtime", "updated", "created") if key in about), None
    )
    if isinstance(found, str):
        return dt.datetime.fromisoformat(found)
    if isinstance(found, int | float):
        return dt.datetime.fromtimestamp(found, dt.UTC)
    # What tells no time is never old.
    return cast(dt.datetime, found) if found is not None else dt.datetime.now(dt.UTC)
