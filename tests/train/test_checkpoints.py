"""Checkpoints on a real disk: whole ones, damaged ones, one too many, and a disk that is full."""

import errno
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raymill.train.checkpoints import CheckpointFailed, Checkpoints, Saved, StorageFull


def writes(text: str, name: str = "state.pt") -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        (directory / "state").mkdir()
        (directory / "state" / name).write_text(text)

    return write


def saved_one(root: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(root, rank=0, workers=1)
    for step in steps:
        checkpoints.save(step, writes(f"weights of {step}"), {"step": step})
    checkpoints.wait()
    return checkpoints


def test_the_two_newest_stay_and_know_how_far_the_run_was(tmp_path: Path) -> None:
    checkpoints = saved_one(tmp_path, 5, 10, 15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]
    assert checkpoints.newest() == 15
    assert checkpoints.newest(before=15) == 10
    assert checkpoints.problem(15) is None
    assert checkpoints.progress(15) == {"step": 15}
    assert (checkpoints.path(15) / "state" / "state.pt").read_text() == "weights of 15"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.write_text("weights of 14"), "other bytes"),
        (lambda file: file.write_text("weights"), "has 7 bytes, 13 were written"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: (file.parents[1] / "part-00000.json").write_text('{"part": 0'), "0 of its parts"),
    ],
)
def test_damage_is_told(tmp_path: Path, damage: Callable[[Path], object], problem: str) -> None:
    checkpoints = saved_one(tmp_path, 10, 15)
    damage(checkpoints.path(15) / "state" / "state.pt")
    assert problem in str(checkpoints.problem(15))
    assert checkpoints.problem(10) is None
    checkpoints.forget_others(10)
    assert checkpoints.newest() == 10


def test_a_checkpoint_is_whole_when_every_worker_has_put_its_part_there(tmp_path: Path) -> None:
    told: list[Saved] = []
    workers = [Checkpoints(tmp_path, rank=rank, workers=2, told=told.append) for rank in (0, 1)]
    workers[0].save(5, writes("first half", "rank-0.pt"), {"step": 5})
    deadline = time.monotonic() + 60
    while "1 of 2 parts" not in str(workers[0].problem(5)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not told
    workers[1].save(5, writes("second half", "rank-1.pt"), {"step": 5})
    for worker in workers:
        worker.wait()
    assert [worker.problem(5) for worker in workers] == [None, None]
    assert [(each.step, each.size_bytes) for each in told] == [(5, 21)]
    (tmp_path / "step-00000005" / "state" / "rank-1.pt").write_text("second hale")
    # Each looks at a share of the files, so that reading all takes no longer than writing did.
    assert [worker.problem(5) is None for worker in workers] == [True, False]


def test_training_goes_on_while_a_checkpoint_is_on_its_way_and_at_most_one_is(tmp_path: Path) -> None:
    first, second = (Checkpoints(tmp_path, rank=rank, workers=2) for rank in (0, 1))
    first.save(5, writes("a"), {})  # returns, though the part of the second is not there
    waiting = threading.Thread(target=lambda: first.save(10, writes("b"), {}))
    waiting.start()
    waiting.join(timeout=0.3)
    assert waiting.is_alive()
    second.save(5, writes("c", "second.pt"), {})
    second.wait()
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    first.give_up()
    first.wait()
    assert "2 parts" in str(first.problem(10))


def test_a_full_disk_is_a_clear_error_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    checkpoints = saved_one(tmp_path / "checkpoints", 5)

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull, match=r"step 10 does not fit .* free space there; .* step 5 stays"):
        checkpoints.save(10, full, {})
    assert checkpoints.problem(5) is None


def test_storage_that_fails_on_the_way_is_told_at_the_next_wait(tmp_path: Path) -> None:
    checkpoints = saved_one(tmp_path, 5)
    (tmp_path / "step-00000010").write_text("a file where the folder should be")
    checkpoints.save(10, writes("b"), {})
    with pytest.raises(CheckpointFailed, match=r"step 10 cannot be written .* step 5 stays"):
        checkpoints.wait()
    assert checkpoints.failed


def test_a_manifest_names_every_file_with_its_size_and_sha256(tmp_path: Path) -> None:
    saved_one(tmp_path, 5)
    part = json.loads((tmp_path / "step-00000005" / "part-00000.json").read_text())
    assert part["files"] == [
        {
            "path": "state/state.pt",
            "size_bytes": 12,
            "sha256": "3d502a48f33be7ad4b026cb752a03d1c184160dd4242d162cd29e9b6cb710481",
        }
    ]


def test_a_worker_that_is_gone_is_no_fault_of_the_storage(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")

    checkpoints = saved_one(tmp_path, 5)
    with pytest.raises(RuntimeError, match="reset by peer"):
        checkpoints.save(10, write, {"step": 10})
    assert checkpoints.newest() == 5
