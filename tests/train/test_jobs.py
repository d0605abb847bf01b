"""Handlers that need no Ray: imported bases."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from raymill.cluster.context import JsonObject, LocalContext
from raymill.policies.errors import Invalid, NotFound
from raymill.train.jobs import run_import_base
from raymill.train.tokenizer import train_tokenizer


def context(root: Path, config: JsonObject) -> LocalContext:
    return LocalContext(root / "home", config=config)


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
