"""The data set job, on small files: what is published, refused, held out and dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.lines import write_lines

from raymill.cluster.context import JsonObject, LocalContext
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import sha256_file
from raymill.train.dataset_job import run_check, run_dataset
from raymill.train.gate import Contaminated
from raymill.train.readers import InvalidDataset

GOOD = {"prompt": "Is it broken?", "completion": "yes"}
OTHER = {"prompt": "Is it late?", "completion": "no"}
BAD = {"prompt": "Is it broken?", "completion": " "}
QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips "
    "did Natalia sell altogether in April and May?"
)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    write_lines(path, rows)
    return str(path)


def context(root: Path, config: JsonObject, name: str = "local") -> LocalContext:
    return LocalContext(root / "home", name=name, config=config)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"What is the number of {n}?", "completion": str(n)} for n in range(count)]


def test_a_data_set_is_published_in_normal_form(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [GOOD, OTHER])
    test = write(tmp_path / "test.jsonl", [GOOD])
    made = context(tmp_path, {"train": train, "test": test, "train_sha256": sha256_file(Path(train))})
    result = run_dataset(made).result
    assert (result["train_rows"], result["test_rows"], result["format"]) == (2, 1, "completion")
    assert result["overlap"] == 1
    lines = (made.path(result["artifact"]) / "train.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "messages": [
            {"role": "user", "content": "Is it broken?"},
            {"role": "assistant", "content": "yes"},
        ]
    }


def test_the_same_rows_in_another_format_give_the_same_digest(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.jsonl", [GOOD])
    alpaca = write(tmp_path / "alpaca.jsonl", [{"instruction": GOOD["prompt"], "output": GOOD["completion"]}])
    digests = {
        run_dataset(LocalContext(tmp_path / name, config={"train": path, "test": path})).result["digest"]
        for name, path in (("one", plain), ("two", alpaca))
    }
    assert len(digests) == 1


def test_a_bad_row_refuses_the_set_and_every_bad_row_is_told(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [GOOD, BAD, BAD])
    made = context(tmp_path, {"train": train, "test": write(tmp_path / "test.jsonl", [BAD, GOOD])})
    with pytest.raises(
        InvalidDataset, match=r"3 of 5 rows are bad: train\.jsonl line 2: completion is empty"
    ):
        run_dataset(made)
    told = [(data["file"], data["number"]) for kind, data in made.events if kind == "bad_row"]
    assert told == [("train.jsonl", 2), ("train.jsonl", 3), ("test.jsonl", 1)]
    assert not (tmp_path / "home" / "artifacts").exists()


def test_bad_rows_are_left_out_when_the_recipe_allows_it(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [GOOD, BAD])
    config = {"train": train, "test": write(tmp_path / "test.jsonl", [OTHER]), "allow_bad_rows": True}
    result = run_dataset(context(tmp_path, config)).result
    assert (result["train_rows"], result["bad_rows"]) == (1, 1)
    config["train"] = write(tmp_path / "train.jsonl", [BAD])
    with pytest.raises(InvalidDataset, match="the train file has no good row"):
        run_dataset(context(tmp_path, config))


def test_a_file_that_changed_after_it_was_submitted_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [GOOD])
    with pytest.raises(Invalid, match=r"train\.jsonl has changed since the recipe was submitted"):
        run_dataset(context(tmp_path, {"train": train, "test": train, "train_sha256": "0" * 64}))


def test_a_registered_set_stands_for_the_step_without_reading_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", numbered(4))
    made = run_dataset(context(tmp_path, {"train": path, "test": path})).result
    (tmp_path / "rows.jsonl").unlink()
    held = {"digest": made["digest"], "artifact": made["artifact"], "name": "mine", "train_rows": 4}
    assert run_dataset(context(tmp_path, {"registered": held})).result == held
    with pytest.raises(NotFound, match="of data set mine is not in the store: restore it"):
        run_dataset(context(tmp_path, {"registered": {**held, "artifact": "dataset/mine/ffffffffffff"}}))


def test_a_split_moves_no_row_when_others_are_added(tmp_path: Path) -> None:
    def sides(count: int, seed: int = 0) -> tuple[set[str], set[str]]:
        config = {
            "train": write(tmp_path / "rows.jsonl", numbered(count)),
            "split": {"test": 0.2, "seed": seed},
        }
        made = LocalContext(tmp_path / f"{count}-{seed}", config=config)
        folder = made.path(run_dataset(made).result["artifact"])
        train, test = (set((folder / f"{part}.jsonl").read_text().splitlines()) for part in ("train", "test"))
        return train, test

    train, test = sides(200)
    more_train, more_test = sides(300)
    assert not train & test
    assert 25 <= len(test) <= 55
    assert train < more_train
    assert test < more_test
    assert sides(200, seed=1)[1] != test
    with pytest.raises(InvalidDataset, match="all 1 rows came to be for training: use another share"):
        sides(1)


def test_duplicates_are_counted_and_dropped_only_when_that_is_asked_for(tmp_path: Path) -> None:
    long = "Please tell me at once where my parcel with the order number twelve has got to, it is late by a week now"
    rows = [
        {"prompt": long, "completion": "It is on its way."},
        {"prompt": f"{long}!", "completion": "It is on its way."},
        {"prompt": long, "completion": "It is on its way."},
        *numbered(3),
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    left = {}
    for duplicates in ("keep", "drop_exact", "drop_near"):
        made = LocalContext(
            tmp_path / duplicates, config={"train": path, "test": path, "duplicates": duplicates}
        )
        result = run_dataset(made).result
        assert (result["duplicates"]["exact"], result["duplicates"]["near"]) == (1, 1)
        left[duplicates] = (result["train_rows"], result["duplicates"]["dropped"])
    assert left == {"keep": (6, 0), "drop_exact": (5, 1), "drop_near": (4, 2)}


def test_statistics_lie_beside_the_rows_and_are_no_part_of_the_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", numbered(30))
    made = context(tmp_path, {"train": path, "test": path})
    result = run_dataset(made).result
    stats = json.loads((made.path(result["artifact"]) / "stats.json").read_text())
    assert stats == result["stats"]
    assert stats["train"]["rows"] == 30
    assert stats["train"]["roles"] == {"user": 30, "assistant": 30}
    assert stats["train"]["turns"] == {"2": 30}
    assert stats["train"]["languages"] == {"en": 1.0}
    assert sum(bucket["rows"] for bucket in stats["train"]["length_characters"]["histogram"]) == 30
    again = LocalContext(tmp_path / "again", config={"train": path, "test": path, "against": []})
    assert run_dataset(again).result["digest"] == result["digest"]


def evaluation(tmp_path: Path, rows: list[dict[str, Any]], name: str = "gsm8k") -> JsonObject:
    """A registered evaluation set, as the gate is told of it."""
    path = write(tmp_path / f"{name}.jsonl", rows)
    result = run_dataset(context(tmp_path, {"train": path, "purpose": "evaluation"}, name)).result
    assert (result["train_rows"], result["test_rows"], result["purpose"]) == (0, len(rows), "evaluation")
    return {"name": name, "number": 1, "artifact": result["artifact"]}


def test_a_benchmark_of_any_layout_can_be_an_evaluation_set(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": QUESTION, "choices": ["72", "96"], "meta": {"answer": 0}},
        {"question": "Two?", "x": None},
    ]
    told = evaluation(tmp_path, rows)
    folder = tmp_path / "home" / "artifacts" / told["artifact"]
    assert [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()] == rows


def test_training_rows_that_hold_evaluation_rows_are_refused_by_set_row_and_share(tmp_path: Path) -> None:
    told = evaluation(
        tmp_path, [{"question": "What is the capital of France?"}, {"question": QUESTION, "answer": "72"}]
    )
    leaked = [*numbered(5), {"instruction": f"Solve this. {QUESTION}", "output": "First 48, then 24: 72."}]
    alpaca = [
        row if "output" in row else {"instruction": row["prompt"], "output": row["completion"]}
        for row in leaked
    ]
    config = {"train": write(tmp_path / "train.jsonl", alpaca), "split": None, "against": [told]}
    made = context(tmp_path, config)
    with pytest.raises(Contaminated) as refused:
        run_dataset(made)
    assert "gsm8k version 1: train row 6 holds 100% of its row 2" in str(refused.value)
    assert "contamination: {waive: [gsm8k]}" in str(refused.value)
    assert not (tmp_path / "home" / "artifacts" / "dataset" / "local").exists()

    waived = run_dataset(context(tmp_path, {**config, "contamination": {"waive": ["gsm8k"]}})).result
    (found,) = waived["stats"]["contamination"]["sets"]
    assert (found["name"], found["rows"], found["waived"]) == ("gsm8k", 1, True)
    assert found["worst"] == [{"row": 2, "train_row": 6, "share": 1.0}]


def test_a_set_is_not_held_against_the_same_held_out_rows_under_another_name(tmp_path: Path) -> None:
    rows = [{"prompt": QUESTION, "completion": "72"}, *numbered(3)]
    path = write(tmp_path / "rows.jsonl", rows)
    first = run_dataset(context(tmp_path, {"train": path, "test": path}, "first")).result
    against = [{"name": "first", "number": 1, "artifact": first["artifact"]}]
    same = run_dataset(context(tmp_path, {"train": path, "test": path, "against": against}, "second")).result
    assert same["stats"]["contamination"] == {"ngram": 13, "threshold": 0.5, "checked": 0, "sets": []}
    config = {"train": path, "test": write(tmp_path / "other.jsonl", numbered(3)), "against": against}
    with pytest.raises(Contaminated, match="first version 1: train row 1 holds"):
        run_dataset(context(tmp_path, config, "third"))


def test_an_evaluation_set_whose_rows_are_gone_is_told(tmp_path: Path) -> None:
    against = [{"name": "gsm8k", "number": 1, "artifact": "dataset/gsm8k/0123456789ab"}]
    config = {"train": write(tmp_path / "train.jsonl", numbered(3)), "against": against}
    with pytest.raises(NotFound, match="of evaluation set gsm8k is not in the store"):
        run_dataset(context(tmp_path, config))


def test_a_check_tells_every_bad_row_and_publishes_nothing(tmp_path: Path) -> None:
    config = {"train": write(tmp_path / "train.jsonl", [GOOD, BAD, OTHER, {"text": 3}])}
    result = run_check(context(tmp_path, config)).result
    assert (result["valid"], result["bad_rows"], result["train_rows"]) == (False, 2, 2)
    assert [(row["number"], row["unit"]) for row in result["first_bad_rows"]] == [(2, "line"), (4, "line")]
    empty = run_check(context(tmp_path, {"train": write(tmp_path / "train.jsonl", [])})).result
    assert (empty["valid"], empty["problem"]) == (
        False,
        "train.jsonl holds no rows: give a file with at least one",
    )
    good = run_check(context(tmp_path, {"train": write(tmp_path / "train.jsonl", [GOOD, OTHER])})).result
    assert (good["valid"], good["problem"], good["stats"]["train"]["rows"]) == (True, None, 2)
    assert not (tmp_path / "home" / "artifacts").exists()


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", [GOOD]), ("b", [OTHER, GOOD]))]
    digests = [sha256_file(Path(path)) for path in paths]
    result = run_dataset(context(tmp_path, {"train": paths, "train_sha256": digests})).result
    assert (result["train_rows"], result["test_rows"]) == (3, 0)
    assert [(each["name"], each["sha256"]) for each in result["provenance"]["files"]] == [
        ("a.jsonl", digests[0]),
        ("b.jsonl", digests[1]),
    ]
