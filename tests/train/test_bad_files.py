"""Forty broken files: each gives one clear line with its place, and leaves nothing of a data set behind."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.context import LocalContext
from raymill.train.dataset_job import run_dataset
from raymill.train.readers import InvalidDataset

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
CHAT = {"messages": [USER, ASSISTANT]}
PAIR = {"prompt": "hi", "chosen": "hello", "rejected": "no"}
JUDGED = {"prompt": "hi", "completion": "hello", "label": True}
CLOCK = [{"type": "function", "function": {"name": "clock"}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}
GOOD = json.dumps(CHAT).encode() + b"\n"


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", content)
    return packed.getvalue()


def parquet(table: pa.Table, **options: Any) -> bytes:
    written = io.BytesIO()
    pq.write_table(table, written, dictionary_pagesize_limit=1 << 30, **options)
    return written.getvalue()


def texts(count: int, length: int) -> pa.Table:
    """`count` rows of one text, which a dictionary holds once."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * length]))
    return pa.table({"text": column})


def nested(depth: int) -> bytes:
    inner = '{"a": ' * depth + "1" + "}" * depth
    calls = f'[{{"name": "clock", "arguments": {inner}}}]'
    turns = f'[{json.dumps(USER)}, {{"role": "assistant", "content": "", "tool_calls": {calls}}}]'
    return f'{{"messages": {turns}, "tools": {json.dumps(CLOCK)}}}\n'.encode()


ZEROS = b"0" * (1 << 22)
BAD_FILES: list[tuple[str, str, Callable[[], bytes], str]] = [
    # What it is, its name, its content, and what is said of it.
    ("truncated json", "a.json", lambda: jsonl([CHAT, CHAT])[:-10], "a.json row 2: is no JSON: Unterminated string"),
    ("json that ends after a row", "a.json", lambda: jsonl([CHAT, CHAT])[:-2], "a.json row 2: the file ends where a comma"),
    ("truncated jsonl", "a.jsonl", lambda: GOOD + GOOD[:-9], "a.jsonl line 2: is no JSON"),
    ("truncated csv", "a.csv", lambda: b'prompt,completion\nhi,hello\nhi,"hel', "a.csv line 3: unexpected end of data"),
    ("truncated parquet", "a.parquet", lambda: parquet(texts(3, 3))[:-40], "a.parquet is no readable parquet file"),
    ("parquet with a damaged page", "a.parquet", lambda: damage(parquet(texts(3, 300))), "a.parquet is "),
    ("jsonl in a json file", "a.json", lambda: GOOD + GOOD, "a.json is no JSON: Extra data at column 1: give a list of rows, or name it .jsonl"),
    ("no list", "a.json", lambda: b'"rows"', "a.json is text: give a list of rows"),
    ("comma before the end of the list", "a.json", lambda: b"[" + GOOD + b",]", "a.json row 2: is no JSON"),
    ("more after the list", "a.json", lambda: b"[" + GOOD + b"] []", "a.json row 1: there is more after the end"),
    ("utf-16 with its mark", "a.jsonl", lambda: GOOD.decode().encode("utf-16"), "a.jsonl is UTF-16 or no text at all: save it as UTF-8"),
    ("utf-16 without its mark", "a.csv", lambda: GOOD.decode().encode("utf-16-le"), "a.csv is UTF-16"),
    ("latin-1 in jsonl", "a.jsonl", lambda: GOOD + '{"text": "é"}\n'.encode("latin-1"), "a.jsonl line 2: is not UTF-8 at byte 11"),
    ("latin-1 in json", "a.json", lambda: '[{"text": "a"},\n{"text": "é"}]'.encode("latin-1"), "a.json line 2: is not UTF-8"),
    ("latin-1 in csv", "a.csv", lambda: "text\na\né\n".encode("latin-1"), "a.csv line 3: is not UTF-8"),
    ("a byte order mark in the middle", "a.jsonl", lambda: GOOD + b"\xef\xbb\xbf" + GOOD, "a.jsonl line 2: begins with a byte order mark"),
    ("mixed formats", "a.jsonl", lambda: jsonl(CHAT, {"prompt": "a", "completion": "b"}), "a.jsonl line 2: is in completion format, the rows before are in messages"),
    ("mixed shapes", "a.jsonl", lambda: jsonl(CHAT, PAIR), "a.jsonl line 2: is in preference format"),
    ("an empty file", "a.jsonl", lambda: b"", "a.jsonl holds no rows"),
    ("blank lines alone", "a.jsonl", lambda: b"\n \n\t\n", "a.jsonl holds no rows"),
    ("a blank line in the middle", "a.jsonl", lambda: GOOD + b"\n" + GOOD, "a.jsonl line 2: is empty"),
    ("a header alone", "a.csv", lambda: b"prompt,completion\n", "a.csv holds no rows"),
    ("a huge row", "a.jsonl", lambda: GOOD + b'{"text": "' + ZEROS * 5 + b'"}\n' + GOOD, "a.jsonl line 2: is longer than 16 MiB"),
    ("an unknown role", "a.jsonl", lambda: jsonl(CHAT, {"messages": [{"role": "wizard", "content": "a"}]}), "a.jsonl line 2: turn 1 has the unknown role 'wizard': use system, user"),
    ("NaN", "a.jsonl", lambda: GOOD + b'{"text": NaN}\n', "a.jsonl line 2: has NaN, which is no JSON number"),
    ("Infinity by its size", "a.json", lambda: b"[" + GOOD + b',{"text": 1e999}]', "a.json row 2: has the number 1e999"),
    ("duplicate ids", "a.jsonl", lambda: jsonl({"id": "x", **CHAT}, {"id": "y", **CHAT}, {"id": "x", **CHAT}), "a.jsonl line 3: has the id 'x' of line 1"),
    ("duplicate keys", "a.jsonl", lambda: GOOD + b'{"text": "a", "text": "b"}\n', "a.jsonl line 2: has the key 'text' twice"),
    ("the prompt twice", "a.jsonl", lambda: jsonl({"prompt": [USER], "chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "no"}]}), "a.jsonl line 1: has the prompt twice"),
    ("a gzip bomb", "a.jsonl", lambda: gzip.compress(ZEROS * 16), "a.jsonl is packed with gzip: unpack it"),
    ("a zip bomb", "a.json", lambda: zipped(ZEROS * 16), "a.json is a zip archive: unpack it"),
    ("bzip2", "a.csv", lambda: bz2.compress(ZEROS), "a.csv is packed with bzip2"),
    ("xz", "a.txt", lambda: lzma.compress(ZEROS), "a.txt is packed with xz"),
    ("a zip bomb named parquet", "a.parquet", lambda: zipped(ZEROS * 16), "a.parquet is no readable parquet file"),
    ("a parquet bomb by its dictionary", "a.parquet", lambda: parquet(texts(20_000, 1 << 22), compression="zstd"), "a.parquet unpacks to more than 64 MiB"),
    ("a parquet bomb in one batch", "a.parquet", lambda: parquet(texts(64, 1 << 26), compression="zstd", store_schema=False), "a.parquet needs more than 2 GiB to unpack"),
    ("deep nesting", "a.jsonl", lambda: GOOD + b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "a.jsonl line 2: is nested too deeply"),
    ("deep nesting in a call", "a.jsonl", lambda: GOOD + nested(100), "a.jsonl line 2: turn 2: tool_calls: call 1: arguments is nested deeper than 64"),
    ("null bytes", "a.jsonl", lambda: GOOD + b'{"text": "a\0b"}\n', "a.jsonl line 2: is no JSON: Invalid control character"),
    ("a null character", "a.jsonl", lambda: jsonl({"text": "a\0b"}), "a.jsonl line 1: text has a null character"),
    ("a lone surrogate", "a.jsonl", lambda: GOOD + b'{"messages": [{"role": "user", "content": "\\ud83d"}]}\n', "a.jsonl line 2: turn 1: content has half a surrogate pair"),
    ("rows that are no objects", "a.json", lambda: json.dumps([[CHAT]]).encode(), "a.json row 1: is a list, not an object"),
    ("turns that are no list", "a.jsonl", lambda: jsonl({"messages": {"a": 1}}), "a.jsonl line 1: messages is an object, not a list"),
    ("a turn that is no object", "a.jsonl", lambda: jsonl({"messages": ["hi"]}), "a.jsonl line 1: turn 1 is text, not an object"),
    ("content that is no text", "a.jsonl", lambda: jsonl({"messages": [{"role": "user", "content": 5}]}), "a.jsonl line 1: turn 1: content is the number 5"),
    ("chosen is rejected", "a.jsonl", lambda: jsonl(PAIR, {**PAIR, "rejected": "hello"}), "a.jsonl line 2: chosen and rejected are the same"),
    ("an empty chosen", "a.jsonl", lambda: jsonl(PAIR, {**PAIR, "chosen": ""}), "a.jsonl line 2: chosen is empty"),
    ("a label that is no boolean", "a.jsonl", lambda: jsonl(JUDGED, {**JUDGED, "label": 1}), "a.jsonl line 2: label is the number 1, not true or false"),
    ("tools that are no list", "a.jsonl", lambda: jsonl({**CHAT, "tools": {"name": "clock"}}), "a.jsonl line 1: tools is an object, not a list"),
    ("tools that are no JSON", "a.jsonl", lambda: jsonl({**CHAT, "tools": "clock"}), "a.jsonl line 1: tools is no JSON: Expecting value"),
    ("a call of an unknown tool", "a.jsonl", lambda: jsonl({"messages": [USER, CALL], "tools": [{"name": "date"}]}), "a.jsonl line 1: turn 2 calls 'clock', which tools does not have: date"),
    ("a result without a call", "a.jsonl", lambda: jsonl({"messages": [USER, {"role": "tool", "content": "9"}, ASSISTANT], "tools": CLOCK}), "a.jsonl line 1: turn 2 is a tool's result, but no call waits"),
    ("no assistant", "a.jsonl", lambda: jsonl({"messages": [USER]}), "a.jsonl line 1: there is no assistant turn"),
    ("ragged csv", "a.csv", lambda: b"prompt,completion\na,b\na\na,b,c\n", "a.csv line 3: has 1 cells, the header 2; a.csv line 4: has 3 cells"),
    ("a column twice", "a.csv", lambda: b"prompt,prompt\na,b\n", "a.csv has a column twice"),
    ("a quote left open", "a.csv", lambda: b'text\n"' + (b"a" * 1023 + b"\n") * (17 << 10), "a.csv line"),
    ("no known keys", "a.parquet", lambda: parquet(pa.table({"question": ["a"]})), "a.parquet row 1: no known format has the keys question"),
]  # fmt: skip


def damage(content: bytes) -> bytes:
    """With the first page overwritten."""
    return content[:8] + b"\xff" * 40 + content[48:]


@pytest.mark.parametrize(
    ("name", "content", "said"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES]
)
def test_a_broken_file_is_told_in_one_line_and_nothing_is_registered(
    tmp_path: Path, name: str, content: Callable[[], bytes], said: str
) -> None:
    bad, good = tmp_path / name, tmp_path / "good.jsonl"
    bad.write_bytes(content())
    good.write_bytes(GOOD)
    # The training file is good and written by the time the held-out one turns out bad.
    context = LocalContext(tmp_path / "home", config={"train": str(good), "test": str(bad)})
    with pytest.raises(InvalidDataset) as caught:
        run_dataset(context)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not (tmp_path / "home" / "artifacts").exists()
    assert list(context.work_dir.iterdir()) == []


def test_there_are_forty_of_them() -> None:
    assert len(BAD_FILES) >= 40
