from __future__ import annotations

from pathlib import Path

import pytest

from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.prompts import Conversation
from raymill.policies.errors import Invalid


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> HfModel:
    model = HfModel(str(tiny_model))
    model.load()
    return model


def test_a_batch_gives_each_conversation_the_answer_it_gets_alone(
    model: HfModel, conversations: list[Conversation]
) -> None:
    together = model.generate(conversations, 24)
    alone = [model.generate([conversation], 24)[0] for conversation in conversations]
    assert together == alone
    assert len({answer["text"] for answer in together}) > len(conversations) // 2


def test_the_models_own_sampling_settings_are_not_used(model: HfModel) -> None:
    assert model.model.generation_config.do_sample is False
    assert model.model.generation_config.temperature in (None, 1.0)


def test_an_answer_that_cannot_fit_is_refused(model: HfModel, conversations: list[Conversation]) -> None:
    with pytest.raises(Invalid, match=r"max_new_tokens is 600, but the context of .* is 512"):
        model.generate(conversations[:1], 600)


def test_a_directory_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"no \*\.safetensors"):
        HfModel(str(tmp_path)).load()
