"""Words, duplicates, contamination, languages and statistics, with numbers that can be checked by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymill.train.contamination import COMMON_ROWS, Seen, build, kept_index
from raymill.train.duplicates import find_duplicates, shingles, similarity
from raymill.train.languages import language_of
from raymill.train.ngrams import WORD, Words, runs, runs_of_many
from raymill.train.row_text import characters_of, texts_of
from raymill.train.statistics import bucket_width, histogram, lengths_stats

TEN = "one two three four five six seven eight nine ten"


def row(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]}


def words_of(texts: list[str]) -> list[Any]:
    words = Words()
    return [words.hashes(text) for text in texts]


def test_words_are_folded_and_characters_of_chinese_stand_alone() -> None:
    assert WORD.findall("Don't stop, 3.5%!") == ["Don", "t", "stop", "3", "5"]
    assert WORD.findall("我喜欢 GPT4 です") == ["我", "喜", "欢", "GPT4", "で", "す"]
    words = Words()
    assert words.hashes("The End").tolist() == words.hashes("the, END.").tolist()
    assert words.hashes("x").tolist() == Words().hashes("x").tolist()


def test_runs_do_not_reach_over_the_end_of_a_text() -> None:
    one, two = words_of(["a b c", "d e f g"])
    assert len(runs(one, 2)) == 2
    found, owner = runs_of_many([one, two], 3)
    assert owner.tolist() == [0, 1, 1]
    assert found.tolist() == [*runs(one, 3).tolist(), *runs(two, 3).tolist()]
    assert len(runs_of_many([one], 4)[0]) == 0
    assert set(runs(one, 2).tolist()).isdisjoint(runs(one, 3).tolist())


def test_near_duplicates_are_those_whose_runs_of_words_are_mostly_the_same() -> None:
    base = " ".join(f"word{n}" for n in range(60))
    texts = [
        base,
        base.replace("word30 ", ""),
        base.replace("word10", "x").replace("word40", "y"),
        f"{base} end",
    ]
    rows = [row(text, "ok") for text in texts]
    words = words_of(texts)
    # 56 runs; without one word 5 of them are others, of 55: 51 of 60. Two changed words change 10: 46 of 66.
    pairs = [round(similarity(shingles(words[0]), shingles(each)), 3) for each in words]
    assert pairs == [1.0, round(51 / 60, 3), round(46 / 66, 3), round(56 / 57, 3)]
    found = find_duplicates([*rows, rows[0]], [*words, words[0]])
    assert found.near.tolist() == [False, True, False, True, False]
    assert found.exact.tolist() == [False, False, False, False, True]


def test_duplicates_of_rows_without_words_are_exact_ones_only() -> None:
    rows = [row("?", "!"), row("?", "!!"), row("?", "!")]
    found = find_duplicates(rows, words_of(["", "", ""]))
    assert found.exact.tolist() == [False, False, True]
    assert not found.near.any()


def test_overlap_is_the_share_of_an_evaluation_rows_runs() -> None:
    evaluation = [{"q": TEN}, {"q": "a b c d e f g h i j k l"}, {"q": "too short"}]
    index = build(evaluation, 8, Words())
    assert len(index.runs_G) == 3 + 5
    seen = Seen([index])
    # Of ten words three runs of eight: one stands in row 3, two in row 5.
    seen.feed(
        words_of(["one two three four five six seven eight", "a b c d e f g h i j", TEN.replace("one ", "")]),
        [2, 1, 4],
    )
    hits = seen.hits(index, 0.5)
    assert [(hit.row, hit.share, hit.train_row) for hit in hits] == [(1, 1.0, 5), (2, 0.6, 2)]
    assert seen.hits(index, 0.7) == hits[:1]


def test_a_short_text_counts_as_one_run_and_only_when_it_has_eight_words() -> None:
    eight, seven = "one two three four five six seven eight", "one two three four five six seven"
    index = build([{"q": eight}, {"q": seven}], 13, Words())
    assert index.sizes_G.tolist() == [8]
    seen = Seen([index])
    seen.feed(words_of([f"Well, {eight} nine"]), [0])
    assert [(hit.row, hit.share) for hit in seen.hits(index, 0.5)] == [(1, 1.0)]


def test_a_question_is_found_that_was_trained_on_with_another_answer() -> None:
    question = " ".join(f"q{n}" for n in range(30))
    answer = " ".join(f"a{n}" for n in range(300))
    index = build([{"question": question, "answer": answer}], 13, Words())
    seen = Seen([index])
    seen.feed(words_of([question]), [0])
    assert [hit.share for hit in seen.hits(index, 0.5)] == [1.0]


def test_what_a_template_says_in_every_row_and_system_turns_are_left_out() -> None:
    template = "Answer the following question with one letter, and say nothing else but that letter please:"
    rows = [{"q": f"{template} number {n}"} for n in range(COMMON_ROWS + 1)]
    index = build(rows, 13, Words())
    seen = Seen([index])
    seen.feed(words_of([f"{template} something else"]), [0])
    assert seen.hits(index, 0.1) == []
    system = {"messages": [{"role": "system", "content": TEN * 3}, {"role": "user", "content": "hello"}]}
    assert texts_of(system) == ["hello"]
    assert characters_of(system) == len(TEN * 3) + 5


def test_an_index_is_made_once_and_kept_beside_the_artifact(tmp_path: Path) -> None:
    artifact = tmp_path / "0123456789ab"
    artifact.mkdir()
    (artifact / "test.jsonl").write_text('{"q": "' + TEN + '"}\n')
    first = kept_index(artifact, 8)
    (artifact / "test.jsonl").unlink()
    again = kept_index(artifact, 8)
    assert first.runs_G.tolist() == again.runs_G.tolist()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [".0123456789ab.runs-8.npz"]
    assert not list(artifact.iterdir())


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is my parcel? I ordered it a week ago and it has not come.", "en"),
        ("Wo ist mein Paket? Ich habe es vor einer Woche bestellt und es ist nicht da.", "de"),
        ("Où est mon colis ? Je l'ai commandé il y a une semaine et il n'est pas arrivé.", "fr"),
        ("¿Dónde está mi paquete? Lo pedí hace una semana y no ha llegado para el lunes.", "es"),
        ("Где моя посылка? Я заказал её неделю назад, и она не пришла.", "ru"),
        ("私の荷物はどこですか。一週間前に注文しました。", "ja"),
        ("我的包裹在哪里。我一周前订购的。", "zh"),
        ("내 소포가 어디에 있나요?", "ko"),
        ("أين طردي؟", "ar"),
        ("foo = bar[baz]; print(foo)", "other"),
        ("12345", "other"),
    ],
)
def test_languages_are_told_by_script_and_small_words(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_histogram_has_round_buckets_and_the_longest_rows_in_the_last() -> None:
    assert [bucket_width(top) for top in (0, 15, 16, 31, 32, 79, 80, 1000)] == [1, 1, 2, 2, 5, 5, 10, 100]
    assert histogram([1, 2, 2, 30]) == [
        {"from": start, "to": start + 2, "rows": {0: 1, 2: 2, 30: 1}.get(start, 0)}
        for start in range(0, 32, 2)
    ]
    many = [10] * 995 + [100_000] * 5
    assert histogram(many)[-1] == {"from": 10, "to": 100_001, "rows": 1000}
    assert lengths_stats([3, 1, 2])["median"] == 2
    assert lengths_stats([]) == {"histogram": []}


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_compared_in_about_a_minute() -> None:
    random = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(20_000)]
    texts = [" ".join(vocabulary[i] for i in random.zipf(1.3, 120) % 20_000) for _ in range(100_000)]
    rows = [row(text, "ok") for text in texts]
    started = time.monotonic()
    words = words_of(texts)
    found = find_duplicates(rows, words)
    near_s = time.monotonic() - started
    index = build([{"q": text} for text in texts[:2000]], 13, Words())
    started = time.monotonic()
    seen = Seen([index])
    seen.feed(words, list(range(len(words))))
    hits = seen.hits(index, 0.5)
    gate_s = time.monotonic() - started
    print(f"duplicates {near_s:.1f} s ({int(found.near.sum())} near), gate {gate_s:.1f} s ({len(hits)} hits)")  # noqa: T201
    assert len(hits) >= 1900
    assert near_s < 120
