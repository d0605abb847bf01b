"""Every container gives the same rows, and every bad row is told with its place and reason."""

import csv
import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import SHARED_DATA
from tests.lines import write_lines

from raymill.policies.errors import Invalid, NotFound
from raymill.train.limits import Limits
from raymill.train.readers import BadRow, InvalidDataset, check_file, read_file, refuse_bad_rows

MESSAGES = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
ALPACA = {"instruction": "hi", "input": "", "output": "hello"}
COMPLETION = {"prompt": "hi", "completion": "hello"}
NORMAL = MESSAGES


def write(path: Path, rows: list[Any]) -> Path:
    """The rows in the container that the suffix names."""
    match path.suffix:
        case ".jsonl":
            write_lines(path, rows)
        case ".json":
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                for row in rows:
                    cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
                    writer.writerow(cells)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("row", "format_name"),
    [(MESSAGES, "messages"), (SHAREGPT, "sharegpt"), (ALPACA, "alpaca"), (COMPLETION, "completion")],
)
def test_every_format_in_every_container_becomes_the_same(
    tmp_path: Path, suffix: str, row: dict[str, Any], format_name: str
) -> None:
    found = read_file(write(tmp_path / f"rows{suffix}", [row, row]))
    assert found.format == format_name
    assert found.rows == (NORMAL, NORMAL)
    assert found.bad_rows == ()


def test_alpaca_input_and_system_are_kept(tmp_path: Path) -> None:
    row = {"instruction": "Translate.", "input": "hola", "output": "hello", "system": "Be brief."}
    (normal,) = read_file(write(tmp_path / "rows.jsonl", [row])).rows
    assert [m["content"] for m in normal["messages"]] == ["Be brief.", "Translate.\n\nhola", "hello"]


def turns(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


BAD_ROWS = [
    ({"messages": []}, "there are no turns"),
    ({"messages": None}, "messages is null, not a list"),
    ({"messages": "not json"}, "messages is no JSON: Expecting value"),
    ({"messages": {"role": "user"}}, "messages is an object, not a list"),
    ({"messages": ["hi"]}, "turn 1 is text, not an object"),
    ({"messages": [{"role": "user"}]}, "turn 1 has no content"),
    ({"messages": [{"content": "hi"}]}, "turn 1 has no role"),
    (turns(("user", "  "), ("assistant", "a")), "turn 1: content is empty"),
    (turns(("user", 7), ("assistant", "a")), "turn 1: content is the number 7, not text"),
    (turns(("user", ["hi"]), ("assistant", "a")), "turn 1: content is a list, not text"),
    (turns(("robot", "hi"), ("assistant", "a")), "turn 1 has the unknown role 'robot': use system, user"),
    (turns(("user", "hi")), "there is no assistant turn, so nothing to learn from"),
    (turns(("assistant", "hi")), "the assistant speaks before any user turn"),
    (turns(("user", "a"), ("assistant", "b"), ("user", "c")), "the last turn is not the assistant's"),
    (turns(("user", "a"), ("user", "b"), ("assistant", "c")), "turns 1 and 2 are both by the user"),
    (turns(("user", "a"), ("system", "b"), ("assistant", "c")), "turn 2 is a system turn"),
    (turns(("user", "\ud800"), ("assistant", "a")), "half a surrogate pair"),
    (["hi"], "is a list, not an object"),
    (None, "is null, not an object"),
    ({"texts": "hi"}, "no known format has the keys texts: use messages"),
    (ALPACA, "is in alpaca format, the rows before are in messages"),
]


def test_every_bad_row_is_told_with_file_line_and_reason(tmp_path: Path) -> None:
    rows = [MESSAGES, *(row for row, _ in BAD_ROWS), MESSAGES]
    found = read_file(write(tmp_path / "rows.jsonl", rows))
    assert len(found.rows) == 2
    assert [row.number for row in found.bad_rows] == list(range(2, len(BAD_ROWS) + 2))
    for bad, (_, reason) in zip(found.bad_rows, BAD_ROWS, strict=True):
        assert bad.file == "rows.jsonl"
        assert bad.unit == "line"
        assert reason in bad.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": NaN}', "has NaN, which is no JSON number"),
        (b'{"a": -Infinity}', "has -Infinity, which is no JSON number"),
        (b'{"messages": [', "is no JSON: Expecting value at column 15"),
        (b'{"prompt": "\xff", "completion": "a"}', "is not UTF-8 at byte 13"),
        (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "has the key 'prompt' twice"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"", "is empty"),
        (b"1" * 5000, "is no JSON: Exceeds the limit"),
        (b"12", "is the number 12, not an object"),
        (b"true", "is true or false, not an object"),
    ],
)
def test_a_damaged_line_is_one_bad_row_and_the_rest_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    good = json.dumps(MESSAGES).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([good, line, good, b"", b""]))
    found = read_file(path)
    assert found.rows == (NORMAL, NORMAL)
    (bad,) = found.bad_rows
    assert (bad.number, bad.unit) == (2, "line")
    assert reason in bad.reason


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(MESSAGES).encode())
    assert read_file(path).rows == (NORMAL,)


def test_a_csv_row_is_counted_by_line_and_its_cells_must_match_the_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\n"two\nlines",hello\nonly one\n,hello\n', encoding="utf-8")
    found = read_file(path)
    assert found.rows[0]["messages"][0]["content"] == "two\nlines"
    assert found.bad_rows == (
        BadRow("rows.csv", "line", 4, "has 1 cells, the header 2"),
        BadRow("rows.csv", "line", 5, "prompt is empty"),
    )


def test_rows_of_json_and_parquet_are_counted_from_one(tmp_path: Path) -> None:
    rows = [COMPLETION, {"prompt": "hi", "completion": ""}]
    for suffix in (".json", ".parquet"):
        found = read_file(write(tmp_path / f"rows{suffix}", rows))
        assert found.bad_rows == (BadRow(f"rows{suffix}", "row", 2, "completion is empty"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.doc", b"hi", "rows.doc ends in .doc: use .csv, .json"),
        ("rows.jsonl", b"", "rows.jsonl holds no rows"),
        ("rows.json", b"[]", "rows.json holds no rows"),
        ("rows.json", b"3", "rows.json is the number 3: give a list"),
        ("rows.json", b"[{]", "rows.json row 1: is no JSON: Expecting property name"),
        ("rows.json", b'["a",\n"\xff"]', "rows.json line 2: is not UTF-8"),
        ("rows.csv", b'a,b\n"x"y,z\n', "rows.csv line 2:"),
        ("rows.csv", b"a,a\n1,2\n", "has a column twice"),
        ("rows.parquet", b"PAR1 this is none", "rows.parquet is no readable parquet file: "),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidDataset) as caught:
        read_file(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.jsonl does not exist"):
        read_file(tmp_path / "gone.jsonl")


def test_a_set_with_bad_rows_is_refused_in_one_line_that_names_the_first_three() -> None:
    bad = tuple(BadRow("train.jsonl", "line", number, "content is empty") for number in (3, 5, 8, 9))
    with pytest.raises(InvalidDataset) as caught:
        refuse_bad_rows(bad, 10)
    assert str(caught.value) == (
        "4 of 10 rows are bad: train.jsonl line 3: content is empty; train.jsonl line 5: content is empty; "
        "train.jsonl line 8: content is empty; and 1 more. Fix them, or set dataset.allow_bad_rows"
    )
    assert caught.value.bad_rows == bad
    assert isinstance(caught.value, Invalid)


def test_documents_of_plain_text_are_counted_by_the_line_they_begin_on(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \n\nthree\0\n\nfour")
    found = read_file(path)
    assert (found.format, found.shape) == ("text", "text")
    assert found.rows == ({"text": "one\ntwo"}, {"text": "four"})
    assert [(bad.unit, bad.number) for bad in found.bad_rows] == [("line", 6)]
    with pytest.raises(InvalidDataset, match=r"corpus\.txt is plain text, but format is kto"):
        read_file(path, "kto")


def test_a_said_format_is_used_for_every_row(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{**COMPLETION, "label": 3}, COMPLETION, {"text": "a"}])
    found = read_file(path, "completion")
    assert found.rows == (NORMAL, NORMAL)
    assert found.bad_rows == (BadRow("rows.jsonl", "line", 3, "has no prompt"),)


def test_an_id_that_comes_twice_is_told_with_its_first_row(tmp_path: Path) -> None:
    ids = ["a", 1, "1", "", None, None, "a", 1, ["b"]]
    found = read_file(write(tmp_path / "rows.jsonl", [{"id": value, **COMPLETION} for value in ids]))
    assert [(bad.number, bad.reason) for bad in found.bad_rows] == [
        (7, "has the id 'a' of line 1"),
        (8, "has the id '1' of line 2"),
        (9, "id is a list, not text or a number"),
    ]


def test_a_null_in_a_struct_of_parquet_is_a_key_that_is_not_there(tmp_path: Path) -> None:
    rows = [
        {**MESSAGES, "tools": [{"name": "a", "parameters": {"x": 1}}]},
        {**MESSAGES, "tools": [{"name": "b", "parameters": {"y": 2}}]},
        MESSAGES,
    ]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    one, other, none = read_file(path).rows
    assert one["tools"] == [{"type": "function", "function": {"name": "a", "parameters": {"x": 1}}}]
    assert other["tools"] == [{"type": "function", "function": {"name": "b", "parameters": {"y": 2}}}]
    assert none == MESSAGES


def test_dates_bytes_and_nan_of_columns_that_nobody_reads_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    extra = {"when": dt.date(2026, 1, 1), "raw": b"\xff", "score": math.nan}
    pq.write_table(pa.Table.from_pylist([{**COMPLETION, **extra}, {**COMPLETION, **extra}]), path)
    assert read_file(path).rows == (NORMAL, NORMAL)


def test_a_report_says_what_a_file_is_and_keeps_no_rows(tmp_path: Path) -> None:
    tools = [{"name": "clock"}]
    report = check_file(write(tmp_path / "rows.jsonl", [MESSAGES, {**MESSAGES, "tools": tools}, {}]))
    assert (report.file, report.format, report.shape) == ("rows.jsonl", "messages", "conversation")
    assert (report.rows, report.with_tools, report.bad, report.usable) == (2, 1, 1, False)
    assert report.bad_rows[0].number == 3
    assert report.error is None
    (tmp_path / "cut.json").write_text('[{"text": "a"}, {"text": ')
    report = check_file(tmp_path / "cut.json")
    assert (report.rows, report.usable) == (1, False)
    assert report.error == "cut.json row 2: is no JSON: Expecting value (line 1, column 26)"
    assert check_file(write(tmp_path / "rows.csv", [COMPLETION])).usable


def test_a_row_a_file_and_a_number_of_rows_have_a_limit(tmp_path: Path) -> None:
    long = {"text": "x" * 2100}
    small = Limits(row_bytes=1000)
    for suffix in (".jsonl", ".json", ".parquet"):
        found = read_file(
            write(tmp_path / f"rows{suffix}", [{"text": "a"}, long, {"text": "b"}]), limits=small
        )
        assert found.rows == ({"text": "a"}, {"text": "b"})
        assert [bad.number for bad in found.bad_rows] == [2]
        assert found.bad_rows[0].reason == "is longer than 1000 bytes"
    for suffix in (".csv", ".txt"):
        path = tmp_path / f"rows{suffix}"
        path.write_text('text\n"a\n' + "b" * 600 + "\n" + "c" * 600 + '"\n')
        with pytest.raises(InvalidDataset, match=r"line 4: the (row|document) is longer than 1000 bytes"):
            read_file(path, limits=small)
    with pytest.raises(InvalidDataset, match=r"has 2\.\d+ KiB, the limit is 1 KiB: split it"):
        read_file(tmp_path / "rows.jsonl", limits=Limits(file_bytes=1024))
    with pytest.raises(InvalidDataset, match=r"has 2\.\d+ KiB, the limit is 1 KiB: write it as \.jsonl"):
        read_file(tmp_path / "rows.json", limits=Limits(whole_bytes=1024))
    for suffix in (".jsonl", ".parquet"):
        with pytest.raises(InvalidDataset, match=r"limit is 2|more than 2 rows"):
            read_file(tmp_path / f"rows{suffix}", limits=Limits(rows=2))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "format", "rows", "with_tools"),
    [
        ("alpaca_en_demo", "alpaca", 500, 0),
        ("dpo_en_demo", "preference", 150, 0),
        ("glaive_toolcall_en_demo", "sharegpt", 150, 100),
    ],
)
def test_the_public_sets_are_read_whole(name: str, format: str, rows: int, with_tools: int) -> None:
    report = check_file(SHARED_DATA / "finetune" / f"{name}.json")
    assert report.usable, report
    assert (report.format, report.rows, report.with_tools) == (format, rows, with_tools)
