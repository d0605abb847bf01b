"""The dial derives the rest, and a wrong value is named together with its cure."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from raymill.train.config import ImportConfig, PretrainConfig, TrainConfig
from raymill.train.dataset_config import Contamination, DatasetConfig, Split
from raymill.train.methods import DpoConfig, KtoConfig, LoraConfig


def test_hidden_and_layers_derive_the_rest() -> None:
    config = PretrainConfig(text="corpus.txt", hidden=512, layers=8)
    assert (config.heads, config.kv_heads, config.ffn) == (8, 4, 1536)
    assert config.learning_rate == pytest.approx(0.002121)


def test_a_given_value_is_not_derived() -> None:
    config = PretrainConfig(text="corpus.txt", heads=8, kv_heads=8, ffn=1024, learning_rate=0.001)
    assert (config.heads, config.kv_heads, config.ffn, config.learning_rate) == (8, 8, 1024, 0.001)


def test_a_dumped_config_is_complete_and_reads_back_the_same() -> None:
    config = TrainConfig.model_validate({"lora": {"r": 8}, "workers": 2, "zero": 2})
    assert config.model_dump()["lora"]["alpha"] == 16
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


def test_lora_learns_faster_than_full_weights_by_default() -> None:
    assert TrainConfig(lora=LoraConfig()).learning_rate == 2e-4
    assert TrainConfig().learning_rate == 2e-5


def test_a_comparing_method_has_its_section_and_a_gentler_rate() -> None:
    config = TrainConfig(method="dpo")
    assert config.dpo == DpoConfig()
    assert config.dpo.loss == {"sigmoid": 1.0}
    assert (config.kto, config.learning_rate) == (None, 1e-6)
    assert TrainConfig(method="kto", lora=LoraConfig()).learning_rate == pytest.approx(1e-5)
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden": 300}, "hidden is 300, which 256 does not divide: use 256"),
        ({"hidden": 256, "ffn": 700}, "ffn is 700, which 256 does not divide: use 768"),
        ({"hidden": 256, "heads": 3}, "heads is 3, which does not divide hidden 256"),
        ({"hidden": 256, "heads": 16}, "heads of 16: vLLM needs 32, 64 or 128, so use 4"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads is 3, which does not divide heads 4"),
        ({"seq_tokens": 4096}, "seq_tokens is 4096, max_positions 2048: raise max_positions"),
        ({"batch": 15, "workers": 2}, "batch is 15, which 2 workers cannot share equally: use 16"),
        ({"workers": 2, "min_workers": 3}, "min_workers is 3, workers 2: lower min_workers or raise workers"),
        (
            {"batch": 2, "workers": 3, "min_workers": 1},
            "batch is 2, some of 3 workers would have no row: raise batch",
        ),
        ({"hiden": 256}, "Extra inputs are not permitted"),
        ({"steps": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_pretraining_value_is_named_with_its_cure(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PretrainConfig.model_validate({"text": "corpus.txt", **given})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"zero": 4}, "less than or equal to 3"),
        ({"method": "ppo"}, "Input should be 'pretrain', 'sft'"),
        ({"lora": {"targets": []}}, "lora.targets is empty"),
        ({"max_tokens": 4096, "micro_tokens": 2048}, "raise micro_tokens"),
        ({"batch": 1, "workers": 2}, "use 2"),
        ({"method": "kto", "batch": 1}, "kto compares answers within a step: use 2 or more"),
        ({"dpo": {"beta": 0.2}}, "dpo has settings, but method is sft: remove dpo, or set method to dpo"),
        ({"method": "dpo", "kto": {}}, "kto has settings, but method is dpo"),
        ({"method": "dpo", "loss_on": "all"}, "loss_on is all, which is for sft and tool"),
        ({"method": "dpo", "dpo": {"loss": "exo_pair"}}, "exo_pair needs dpo.label_smoothing above 0"),
        ({"method": "dpo", "dpo": {"label_smoothing": 0.1}}, "which sigmoid does not know: leave it out"),
        (
            {"method": "dpo", "dpo": {"loss": "apo_zero", "divergence": "forward_kl"}},
            "apo_zero has no form for",
        ),
        ({"method": "dpo", "dpo": {"loss": {}}}, "at least 1 item"),
    ],
)
def test_a_wrong_tuning_value_is_named_with_its_cure(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(given)
    assert message in str(caught.value)


def test_a_base_comes_from_one_place() -> None:
    with pytest.raises(ValidationError, match="either path or hub"):
        ImportConfig()
    with pytest.raises(ValidationError, match="either path or hub"):
        ImportConfig(path="a", hub="b/c")
    with pytest.raises(ValidationError, match="path has no revisions"):
        ImportConfig(path="a", revision="main")


def test_a_config_cannot_be_changed() -> None:
    config = DatasetConfig(train="a.jsonl", test="b.jsonl")
    with pytest.raises(ValidationError, match="frozen"):
        config.train = "c.jsonl"


def test_a_data_set_is_files_or_a_registered_one() -> None:
    with pytest.raises(ValidationError, match="needs either train, a file, or name, a registered set"):
        DatasetConfig()
    with pytest.raises(ValidationError, match="give one of them"):
        DatasetConfig(train="a.jsonl", name="tickets")
    with pytest.raises(ValidationError, match="version 2 belongs to name"):
        DatasetConfig(train="a.jsonl", version=2)
    with pytest.raises(ValidationError, match="split belongs to files, tickets is registered as it is"):
        DatasetConfig(name="tickets", split=Split(test=0.1))
    with pytest.raises(ValidationError, match="test and split both hold rows out"):
        DatasetConfig(train="a.jsonl", test="b.jsonl", split=Split(test=0.1))
    named = DatasetConfig(name="tickets", version=2)
    assert DatasetConfig.model_validate(named.model_dump(mode="json")) == named
    assert named.holds_out
    assert not DatasetConfig(train="a.jsonl").holds_out


def test_every_field_has_a_line_of_doc() -> None:
    sections = (
        TrainConfig,
        LoraConfig,
        DpoConfig,
        KtoConfig,
        DatasetConfig,
        Contamination,
        ImportConfig,
        Split,
    )
    for model in (PretrainConfig, *sections):
        for name, field in model.model_fields.items():
            assert field.description or name in ("seed",), f"{model.__name__}.{name}"


def test_importing_the_config_loads_nothing_heavy() -> None:
    code = (
        "import sys, raymill.train.config, raymill.train.dataset_config\n"
        "heavy = {'torch', 'ray', 'transformers', 'numpy', 'sqlalchemy'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
