"""Usage records on disk: what a write has taken stays, whatever happens to the process, the line or the disk."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from tests.serve.usage_records import record

from raymill.policies.errors import Unavailable
from raymill.registry.tables import Usage
from raymill.serve.gateway.segments import REFUSED, SpoolReader
from raymill.serve.gateway.spool import Spool, TraceRecord, UsageRecord


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, uuid.uuid4(), segment_bytes=1000)


def test_a_record_has_exactly_the_columns_of_the_usage_table() -> None:
    assert list(UsageRecord.__struct_fields__) == [column.name for column in Usage.__table__.columns]


def test_what_was_closed_is_read_in_order_and_what_was_not_is_open(spool: Spool) -> None:
    spool.open_request(record(1))
    spool.open_request(record(2))
    done = record(2, outcome="ok", completion_tokens=7)
    spool.close_request(done, [("account:a/tokens/minute", 60, 7)], TraceRecord(prompt={"a": 1}, answer={}))
    batch = SpoolReader(spool.folder).read()
    assert [entry.record for entry in batch.closed] == [done]
    assert [tuple(delta) for delta in batch.closed[0].deltas] == [("account:a/tokens/minute", 60, 7)]
    assert batch.closed[0].trace == TraceRecord(prompt={"a": 1}, answer={})
    assert batch.open == {record(1).id: record(1)}
    assert batch.open[record(1).id].outcome == "lost"
    spool.close()


def test_reading_goes_on_where_it_was_and_deletes_segments_that_are_done(spool: Spool) -> None:
    for number in range(1, 21):
        spool.open_request(record(number))
    assert len(list(spool.folder.glob("*.jsonl"))) > 3
    depth_bytes = spool.depth_bytes()
    reader = SpoolReader(spool.folder)
    reader.remember(reader.read())
    assert len(list(spool.folder.glob("*.jsonl"))) == 1
    spool.close_request(record(3, outcome="ok"), [])
    again = SpoolReader(spool.folder)
    batch = again.read()
    assert [entry.record.id.int for entry in batch.closed] == [3]
    assert sorted(id_.int for id_ in batch.open) == [1, 2, *range(4, 21)]
    again.remember(batch)
    assert again.read().end == again.position
    spool._looked_at = 0.0
    assert spool.depth_bytes() == 0 < depth_bytes
    spool.close()


def test_a_batch_that_is_not_remembered_comes_again(spool: Spool) -> None:
    spool.close_request(record(1), [])
    assert SpoolReader(spool.folder).read() == SpoolReader(spool.folder).read()
    spool.close()


def test_a_replica_is_dead_once_its_lock_is_free(spool: Spool) -> None:
    reader = SpoolReader(spool.folder)
    assert not reader.is_dead()
    spool.close()
    assert reader.is_dead()
    assert not any(path.name.startswith(".") for path in spool.folder.parent.iterdir())
    reader.delete()
    assert not spool.folder.exists()


def test_half_a_record_at_the_end_waits_for_its_rest_and_is_left_out_after_a_death(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    spool.close_request(record(1), [])
    segment = next(spool.folder.glob("*.jsonl"))
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole[:40])
    reader = SpoolReader(spool.folder)
    batch = reader.read()
    assert (len(batch.closed), batch.end.offset) == (1, len(whole))
    reader.remember(batch)
    spool.close()
    assert reader.is_dead()
    batch = reader.read()
    assert (batch.closed, batch.end.offset) == ([], len(whole) + 40)
    assert "half a record" in caplog.text
    reader.close()


def test_a_line_that_is_no_record_is_kept_aside(spool: Spool) -> None:
    segment = next(spool.folder.glob("*.jsonl"))
    segment.write_bytes(b'{"kind":"close"}\n\xff\xff\n')
    spool.close_request(record(1), [])
    assert len(SpoolReader(spool.folder).read().closed) == 1
    assert (spool.folder.parent / REFUSED).read_bytes() == b'{"kind":"close"}\n\xff\xff\n'
    spool.close()


def test_a_position_that_cannot_be_read_starts_again_at_the_first_segment(spool: Spool) -> None:
    spool.close_request(record(1), [])
    (spool.folder / "position").write_bytes(b"")
    assert len(SpoolReader(spool.folder).read().closed) == 1
    spool.close()


def test_a_full_spool_lets_nothing_new_in_but_records_what_ends(tmp_path: Path) -> None:
    spool = Spool(tmp_path, uuid.uuid4(), max_bytes=500)
    spool.open_request(record(1))
    spool.open_request(record(2))
    assert spool.full()
    with pytest.raises(Unavailable, match="may hold 500: see that Postgres runs"):
        spool.open_request(record(3))
    spool.close_request(record(1, outcome="ok"), [])
    reader = SpoolReader(spool.folder)
    reader.remember(reader.read())
    spool._looked_at = 0.0
    assert not spool.full()
    spool.close()


def test_a_trace_that_is_no_json_is_left_out_and_the_record_stays(spool: Spool) -> None:
    spool.close_request(record(1), [], TraceRecord(prompt={"a": object()}, answer={}))
    (entry,) = SpoolReader(spool.folder).read().closed
    assert entry.trace is None
    spool.close()


def test_a_lock_is_not_inherited_by_processes_that_a_replica_starts(spool: Spool) -> None:
    reader = SpoolReader(spool.folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        spool.close()
        deadline = (
            time.monotonic() + 60
        )  # the kernel lets a new process go on a moment before it closes files
        while not reader.is_dead():
            assert time.monotonic() < deadline
        child.communicate(b"\n")
    reader.close()


FULL_DISK = """
import pathlib, resource, sys, uuid
import msgspec
from raymill.policies.errors import Unavailable
from raymill.serve.gateway.spool import Spool, UsageRecord
from tests.serve.usage_records import record
spool = Spool(pathlib.Path(sys.argv[1]), uuid.uuid4())
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
opened = 0
try:
    while True:
        spool.open_request(record(opened + 1))
        opened += 1
except Unavailable as error:
    print("refused:", error, file=sys.stderr)
for number in range(1, opened + 1):
    spool.close_request(record(number, outcome="ok"), [])
assert spool.full()
try:
    spool.open_request(record(999))
except Unavailable:
    pass
else:
    raise AssertionError("let in")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
assert not spool.full()
spool.close()
print(opened)
"""


def test_a_full_disk_lets_nothing_new_in_and_loses_no_record_of_what_was_let_in(tmp_path: Path) -> None:
    # A limit on the size of files stands for the disk: it too takes a part of a write and refuses the next.
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "refused: usage records cannot be written" in done.stderr
    (folder,) = tmp_path.iterdir()
    reader = SpoolReader(folder)
    assert reader.is_dead()
    batch = reader.read()
    assert sorted(entry.record.id.int for entry in batch.closed) == list(range(1, int(done.stdout) + 1))
    assert batch.open == {}
    reader.close()
