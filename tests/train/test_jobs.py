"""Handlers that need no Ray: data sets and imported bases."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from raymill.cluster.context import JsonObject, LocalContext
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import sha256_file
from raymill.train.jobs import run_dataset, run_import_base
from raymill.train.readers import InvalidDataset
from raymill.train.tokenizer import train_tokenizer

GOOD = {"prompt": "Is it broken?", "completion": "yes"}
OTHER = {"prompt": "Is it late?", "completion": "no"}
BAD = {"prompt": "Is it broken?", "completion": " "}


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def context(root: Path, config: JsonObject) -> LocalContext:
    return LocalContext(root / "home", config=config)


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


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A base of 12 weights in Hugging Face layout."""
    directory = tmp_path / "model"
    train_tokenizer([f"word{n} of a text" for n in range(50)], 300, directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file(
        {"a": np.zeros((2, 4), np.float32), "b": np.zeros(4, np.float32)}, directory / "model.safetensors"
    )
    (directory / "training_args.bin").write_bytes(b"pickle")
    (directory / "code.py").write_text("never run")
    return directory


def test_a_base_is_imported_without_pickle_and_without_code(model: Path, tmp_path: Path) -> None:
    made = context(tmp_path, {"path": str(model), "hub": None, "revision": None})
    result = run_import_base(made).result
    assert result["parameters"] == 12
    names = {path.name for path in made.path(result["artifact"]).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"} <= names
    assert names & {"training_args.bin", "code.py"} == set()
    assert (model / "model.safetensors").is_file()


def test_a_base_that_cannot_be_used_says_why(model: Path, tmp_path: Path) -> None:
    made = context(tmp_path, {"path": str(model)})
    config = model / "config.json"
    config.write_text(json.dumps({"auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(Invalid, match="needs code of its own"):
        run_import_base(made)
    config.write_text("{}")
    (model / "model.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(Invalid, match=r"model\.safetensors is damaged"):
        run_import_base(made)
    (model / "model.safetensors").unlink()
    with pytest.raises(Invalid, match=r"its weights are pickled \(training_args\.bin\)"):
        run_import_base(made)
    config.unlink()
    with pytest.raises(Invalid, match=r"has no config\.json"):
        run_import_base(made)
    with pytest.raises(NotFound, match="is no directory"):
        run_import_base(context(tmp_path, {"path": str(tmp_path / "gone")}))
