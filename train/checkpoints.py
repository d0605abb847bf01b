"""Checkpoints of a training run, on storage that every node of the run sees.

    checkpoints/step-00000120/
        state.pt, state/...        what the engine wrote: each worker its own shards, nobody the whole
        part-00000.json            one for each worker: its files with size and sha256, written last

A worker writes to a disk of its own node and trains on; a thread brings the files to the storage, one checkpoint at a
time. A checkpoint is whole when every part is there and every byte is the one that was written; a run that begins
again takes the newest that is. Knows nothing of Ray, of models, or of how workers talk to each other.

Sizes are bytes; steps are counted from 1.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from raymill.policies.errors import Unavailable
from raymill.registry.artifacts import CHUNK_BYTES, sha256_file

KEEP = 2
"""Whole checkpoints that stay; the older one is for when the newer is damaged."""

FOLDER = re.compile(r"step-(\d{8,})")
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
NEARLY_NOTHING_BYTES = 1 << 20
POLL_S = 0.05
OTHERS_PATIENCE_S = 600.0
"""How long the first worker waits for the parts of the others before it says that a checkpoint is there."""


class StorageFull(Unavailable):
    """A checkpoint does not fit; those before it stay."""

    code = "storage_full"


class CheckpointFailed(Unavailable):
    """A checkpoint could not be written; those before it stay."""

    code = "checkpoint_failed"


class Saved(NamedTuple):
    """A checkpoint that is whole."""

    step: int
    size_bytes: int
    seconds: float
    """From the first byte to the last; the training stood still for `stall_s` of it."""

    stall_s: float


class Checkpoints:
    """One worker's hand on the checkpoints of its run.

    Args:
        root: the folder of all checkpoints, on shared storage.
        told: called from a thread, on the first worker alone, when a checkpoint is whole.
        staging: a folder on a disk of this node; None means the system's temporary one.
    """

    def __init__(
        self,
        root: Path,
        *,
        rank: int,
        workers: int,
        told: Callable[[Saved], None] | None = None,
        staging: Path | None = None,
    ) -> None:
        self._root = root
        self._rank = rank
        self._workers = workers
        self._told = told or (lambda _: None)
        self._staging = staging
        self._upload: threading.Thread | None = None
        self._failure: Exception | None = None
        self._stop_waiting = threading.Event()

    @property
    def failed(self) -> bool:
        """The last upload failed; `wait` raises what it was."""
        return self._failure is not None

    def save(self, step: int, write: Callable[[Path], None], progress: dict[str, Any]) -> None:
        """Take a checkpoint: returns when it lies on a disk of this node; the rest is a thread's.

        Every worker calls it with the same step. Waits for the checkpoint before.

        Args:
            write: puts this worker's shards into an empty folder; may put nothing.
            progress: what the run must know to go on; the first worker's is kept.

        Raises:
            StorageFull: a disk is full.
            CheckpointFailed: this one or the one before could not be written.
        """
        began = time.monotonic()
        self.wait()
        local = Path(tempfile.mkdtemp(prefix="raymill-checkpoint-", dir=self._staging))
        try:
            write(local)
        except Exception as error:
            shutil.rmtree(local, ignore_errors=True)
            raise self._clear(error, step, local.parent) from error
        stall_s = time.monotonic() - began

        def upload() -> None:
            try:
                self._upload_part(local, step, progress)
                if self._rank == 0 and self._whole_within(step, OTHERS_PATIENCE_S):
                    size = sum(file["size_bytes"] for part in self._parts(step) for file in part["files"])
                    self._told(Saved(step, size, time.monotonic() - began, stall_s))
                    self._prune()
            except Exception as error:  # noqa: BLE001 - the training thread raises it, at its next save
                self._failure = self._clear(error, step, self._root)
            finally:
                shutil.rmtree(local, ignore_errors=True)

        self._upload = threading.Thread(target=upload, name=f"checkpoint-{step}", daemon=True)
        self._upload.start()

    def wait(self) -> None:
        """Until nothing is on its way any more.

        Raises:
            StorageFull, CheckpointFailed: it did not arrive.
        """
        if self._upload is not None:
            self._upload.join()
            self._upload = None
        if self._failure is not None:
            raise self._failure

    def give_up(self) -> None:
        """Wait no longer for the parts of others; another worker said that there is no use."""
        self._stop_waiting.set()

    def newest(self, before: int | None = None) -> int:
        """The newest step that something lies there of, whole or not; 0 when there is none."""
        return max((step for step in self._steps() if before is None or step < before), default=0)

    def problem(self, step: int) -> str | None:
        """What is wrong with a checkpoint; None when it is whole. Workers look at a share of the files each."""
        parts = list(self._parts(step))
        if not self._is_whole(parts):
            return (
                f"{len(parts)} of {parts[0]['parts'] if parts else 'its'} parts are there"
                if self._rank == 0
                else None
            )
        files = sorted((file for part in parts for file in part["files"]), key=lambda file: str(file["path"]))
        for file in files[self._rank :: self._workers]:
            path = self.path(step) / file["path"]
            if not path.is_file():
                return f"{file['path']} is missing"
            if path.stat().st_size != file["size_bytes"]:
                return f"{file['path']} has {path.stat().st_size} bytes, {file['size_bytes']} were written"
            if sha256_file(path) != file["sha256"]:
                return f"{file['path']} has other bytes than were written"
        return None

    def progress(self, step: int) -> dict[str, Any]:
        """What `save` was given by the first worker."""
        found: dict[str, Any] = next(part["progress"] for part in self._parts(step) if part["part"] == 0)
        return found

    def path(self, step: int) -> Path:
        return self._root / f"step-{step:08d}"

    def forget_others(self, step: int) -> None:
        """Remove what is newer than `step`, and what is not whole: nothing of it may mix with what comes."""
        for other in self._steps():
            if other > step or not self._is_whole(list(self._parts(other))):
                shutil.rmtree(self.path(other), ignore_errors=True)

    def _upload_part(self, local: Path, step: int, progress: dict[str, Any]) -> None:
        target = self.path(step)
        target.mkdir(parents=True, exist_ok=True)
        part: dict[str, Any] = {
            "part": self._rank,
            "parts": self._workers,
            "progress": progress if self._rank == 0 else {},
            "files": [],
        }
        written: list[Path] = []
        try:
            for source in sorted(path for path in local.rglob("*") if path.is_file()):
                relative = source.relative_to(local)
                written.append(target / relative)
                part["files"].append({"path": relative.as_posix(), **copy(source, target / relative)})
            partial = target / f".part-{self._rank:05d}"
            written.append(partial)
            with partial.open("w", encoding="utf-8") as file:
                json.dump(part, file)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target / f"part-{self._rank:05d}.json")
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise

    def _whole_within(self, step: int, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while not self._is_whole(list(self._parts(step))):
            if self._stop_waiting.wait(POLL_S) or time.monotonic() > deadline:
                return False
        return True

    def _prune(self) -> None:
        whole = [step for step in self._steps() if self._is_whole(list(self._parts(step)))]
        for step in self._steps():
            if len(whole) >= KEEP and step < sorted(whole)[-KEEP]:
                shutil.rmtree(self.path(step), ignore_errors=True)

    def _steps(self) -> list[int]:
        if not self._root.is_dir():
            return []
        found = (FOLDER.fullmatch(path.name) for path in self._root.iterdir())
        return [int(match[1]) for match in found if match]

    def _parts(self, step: int) -> Iterator[dict[str, Any]]:
        """The manifests that can be read; one that cannot counts as missing."""
        for path in sorted(self.path(step).glob("part-*.json")):
            try:
                part = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, OSError):
                continue
            if isinstance(part, dict) and {"part", "parts", "progress", "files"} <= part.keys():
                yield part

    def _is_whole(self, parts: list[dict[str, Any]]) -> bool:
        return bool(parts) and sorted(part["part"] for part in parts) == list(range(parts[0]["parts"]))

    def _clear(self, error: Exception, step: int, place: Path) -> Exception:
        """The error in one line. torch hides that a disk is full behind an error of its own."""
        if isinstance(error, StorageFull | CheckpointFailed) or _is_lost_peer(error):
            return error
        last = self.newest(before=step)
        stays = f"the checkpoint of step {last} stays" if last else "there is no checkpoint before it"
        if (isinstance(error, OSError) and error.errno in FULL) or free_bytes(place) < NEARLY_NOTHING_BYTES:
            return StorageFull(
                f"the checkpoint of step {step} does not fit on {place}, which has {free_bytes(place)} bytes left: "
                f"free space there; {stays}"
            )
        return CheckpointFailed(
            f"the checkpoint of step {step} cannot be written to {place} ({type(error).__name__}: {error}): "
            f"look at the storage; {stays}"
        )


def copy(source: Path, target: Path) -> dict[str, Any]:
    """Copy a file to storage, flushed; its size and sha256, computed on the way."""
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return {"size_bytes": size, "sha256": digest.hexdigest()}


def free_bytes(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _is_lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another worker has gone: no fault of the storage, and the run goes on with
    whom it finds. gloo's errors have no class of their own."""
    return "gloo/transport" in str(error) or type(error).__name__ == "DistBackendError"
