from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raymill.evaluate.exact_match import batches_of, is_exact, record_of
from raymill.evaluate.prompts import Answer, Row, load_tokenizer, read_rows, render
from raymill.evaluate.samples import SampleLog
from raymill.policies.errors import Invalid


def row(index: int, words: int, reference: str = "yes") -> Row:
    return Row(index=index, messages=[{"role": "user", "content": "a " * words}], reference=reference)


def answer(text: str) -> Answer:
    return Answer(prompt="p", text=text, prompt_tokens=3, tokens=[1, 2], finished=True)


@pytest.mark.parametrize(
    ("said", "same"),
    [("yes", True), (" yes\n", True), ("Yes", False), ("yes.", False), ("y es", False), ("", False)],
)
def test_an_answer_counts_when_it_is_the_reference_letter_for_letter(said: str, same: bool) -> None:
    assert is_exact(said, "yes") is same


def test_what_is_asked_and_wanted_makes_the_hash_and_nothing_else() -> None:
    one = record_of(row(0, 2), answer("yes"))["doc_hash"]
    assert record_of(row(7, 2), answer("no"))["doc_hash"] == one
    others = [row(0, 3), row(0, 2, "no"), replace(row(0, 2), tools=({"name": "look"},))]
    assert len({one, *(record_of(each, answer("yes"))["doc_hash"] for each in others)}) == 4


def test_rows_of_like_length_share_a_batch_and_none_is_lost() -> None:
    rows = [row(n, words) for n, words in enumerate([9, 1, 5, 2, 8])]
    batches = batches_of(rows, 2)
    assert [[r.index for r in batch] for batch in batches] == [[1, 3], [2, 4], [0]]


def test_the_last_turn_is_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},'
        ' {"role": "assistant", "content": "a"}]}\n\n'
    )
    (only,) = read_rows(path)
    assert only.reference == "a"
    assert [turn["role"] for turn in only.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"messages": [{"role": "user", "content": "q"}]}', "ends with a turn of 'user'"),
        ('{"text": "q"}', "is plain text"),
        ("{", "no row with messages"),
        ('{"messages": []}', "no row with messages"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "test.jsonl"
    good = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(Invalid, match=rf"^test\.jsonl:2 .*{reason}"):
        read_rows(path)


def test_the_prompt_is_rendered_by_the_models_own_template(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    assert render(tokenizer, [{"role": "user", "content": "hi"}]) == "<|user|>hi<|end|><|assistant|>"


def test_samples_survive_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    SampleLog(path).add([{"index": 0}, {"index": 1}])
    with path.open("ab") as file:
        file.write(b'{"index": 2, "ans')
    log = SampleLog(path)
    log.add([{"index": 2}])
    assert SampleLog(path).records == log.records == [{"index": 0}, {"index": 1}, {"index": 2}]
