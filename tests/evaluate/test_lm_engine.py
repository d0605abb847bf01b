"""The engine gives what lm-eval's own gives, and computes what prompts share once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluate.conftest import sentence

from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.prefix_packs import Pack, PrefixWalk, Wanted

# lm-eval and transformers, both pinned, warn on their own account.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> HfModel:
    model = HfModel(str(tiny_model))
    model.load()
    return model


def lm_eval_of(model: HfModel, batch: int = 4) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch, backend="causal")


def asked(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=number)
        for number, each in enumerate(arguments)
    ]


SHOTS = "\n".join(f"{sentence(seed)} now" for seed in range(9)) + "\n"


def choices() -> list[tuple[str, str]]:
    """Questions behind the same examples, with choices of one token and of several."""
    found = []
    for seed in range(7):
        context = SHOTS + sentence(seed)
        found += [(context, f" {letter}") for letter in "ABCD"]
        found += [(context, f" {sentence(seed + choice)}") for choice in range(3)]
    return [*found, ("", "late parcel"), (f"{sentence(3)}  ", "late"), ("é€", "\n\n")]


def wanted_of(sequences: list[list[int]], outputs: list[int]) -> list[Wanted]:
    pairs = sorted(zip(sequences, outputs, strict=True))
    return [
        Wanted(number, np.asarray(tokens, dtype=np.int64), len(tokens) - count)
        for number, (tokens, count) in enumerate(pairs)
    ]


@pytest.mark.parametrize("new_tokens", [1, 5, 17, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_a_token_of_a_pack_sees_its_own_path_and_nothing_else(new_tokens: int, seed: int) -> None:
    draw = random.Random(seed)
    sequences = [[draw.randrange(2) for _ in range(draw.randint(1, 9))] for _ in range(30)]
    wanted = wanted_of(sequences, [draw.randint(1, len(tokens)) for tokens in sequences])
    before: list[tuple[int, ...]] = []
    ended = []
    for pack in PrefixWalk(new_tokens, 1000).packs(wanted):
        before = paths_of(pack, before)
        for each, path in pack.ends:
            ended.append(each.number)
            assert [before[place] for place in path] == [
                tuple(each.tokens[: depth + 1].tolist()) for depth in range(len(each.tokens))
            ]
            assert all(place >= len(pack.kept_P) for place in path[each.first :]), "an output is gone"
    assert ended == list(range(len(wanted)))


def paths_of(pack: Pack, before: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The tokens from the root to each place, told by what it sees."""
    places = [before[place] for place in pack.kept_P]
    past = len(places)
    for row, seen_K in enumerate(pack.visible_NK()):
        seen = np.flatnonzero(seen_K)
        assert seen[-1] == past + row
        assert len(seen) == pack.depths[row] + 1
        above = places[seen[-2]] if len(seen) > 1 else ()
        assert [len(places[place]) for place in seen[:-1]] == list(range(1, len(seen)))
        places.append((*above, pack.tokens[row]))
    return places


def test_a_shared_prefix_is_computed_once() -> None:
    shared = list(range(50))
    wanted = wanted_of([[*shared, 100 + number] for number in range(20)], [1] * 20)
    (pack,) = PrefixWalk(1000, 1000).packs(wanted)
    assert len(pack.tokens) == 50 + 20
    in_parts = list(PrefixWalk(8, 1000).packs(wanted))
    assert len(in_parts) > 1
    assert sum(len(pack.tokens) for pack in in_parts) == 50 + 20


def test_the_outputs_of_a_pack_are_bounded() -> None:
    wanted = wanted_of([[number, 1, 1, 1] for number in range(20)], [3] * 20)
    packs = list(PrefixWalk(1000, 9).packs(wanted))
    assert [pack.outputs for pack in packs] == [9] * 6 + [6]


def test_log_likelihoods_are_those_of_lm_eval_and_do_not_depend_on_what_is_shared(model: HfModel) -> None:
    requests = asked("loglikelihood", choices())
    engine = model.engine(4)
    assert engine.able
    found = engine.loglikelihood(requests, disable_tqdm=True)
    theirs = lm_eval_of(model).loglikelihood(requests, disable_tqdm=True)
    alone = [engine.loglikelihood([request], disable_tqdm=True)[0] for request in requests]
    for other in (theirs, alone):
        assert [score for score, _ in found] == pytest.approx(
            [score for score, _ in other], rel=1e-5, abs=1e-5
        )
        assert [greedy for _, greedy in found] == [greedy for _, greedy in other]


def test_small_packs_change_nothing(model: HfModel, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asked("loglikelihood", choices())
    whole = model.engine(4).loglikelihood(requests, disable_tqdm=True)
    monkeypatch.setattr("raymill.evaluate.prefix_model.CPU_TOKENS", 40)
    parts = model.engine(4).loglikelihood(requests, disable_tqdm=True)
    assert [score for score, _ in parts] == pytest.approx([score for score, _ in whole], rel=1e-5, abs=1e-5)


def test_what_is_too_long_is_cut_from_the_left_as_lm_eval_cuts_it(model: HfModel) -> None:
    long = " ".join(sentence(seed) for seed in range(120))
    pairs = [(long, " now"), (long, f" {sentence(4)}"), (f"{long} help", " now")]
    requests = asked("loglikelihood", pairs)
    assert len(model.tokenizer(long)["input_ids"]) > 512
    found = model.engine(4).loglikelihood(requests, disable_tqdm=True)
    theirs = lm_eval_of(model).loglikelihood(requests, disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in theirs], rel=1e-5)
    rolling = asked("loglikelihood_rolling", [(long,), (sentence(1),)])
    assert model.engine(4).loglikelihood_rolling(rolling, disable_tqdm=True) == pytest.approx(
        lm_eval_of(model).loglikelihood_rolling(rolling, disable_tqdm=True), rel=1e-5
    )


@pytest.mark.parametrize("until", [["QQQ"], ["e", "la", "late"], [" "], []])
def test_answers_are_those_of_lm_eval(model: HfModel, until: list[str]) -> None:
    settings = {"until": until, "max_gen_toks": 40, "do_sample": False, "temperature": 0.0}
    prompts = [SHOTS + sentence(seed) for seed in range(11)]
    long = " ".join(sentence(seed) for seed in range(120))
    requests = asked("generate_until", [(prompt, settings) for prompt in [*prompts, prompts[0], long]])
    found = model.engine(4).generate_until(requests, disable_tqdm=True)
    assert found == lm_eval_of(model, 1).generate_until(requests, disable_tqdm=True)
    assert len(set(found)) > 3


def test_requests_with_other_settings_do_not_share_a_batch(model: HfModel) -> None:
    prompts = [SHOTS + sentence(seed) for seed in range(4)]
    requests = asked(
        "generate_until",
        [(prompt, {"until": ["QQQ"], "max_gen_toks": 5 + 3 * (n % 2)}) for n, prompt in enumerate(prompts)],
    )
    assert model.engine(4).generate_until(requests, disable_tqdm=True) == lm_eval_of(model).generate_until(
        requests, disable_tqdm=True
    )


def other_model(kind: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": 330, "initializer_range": 0.3}
    if kind == "bloom":  # its positions are in the attention, made of a mask of two dimensions
        return transformers.BloomForCausalLM(
            transformers.BloomConfig(hidden_size=64, n_layer=2, n_head=4, **common)
        )
    if kind == "gpt2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, **common))
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.MistralForCausalLM(
        transformers.MistralConfig(**sizes, num_key_value_heads=2, sliding_window=48, **common)
    )


@pytest.mark.parametrize("kind", ["bloom", "gpt2", "mistral"])
def test_a_model_that_cannot_share_is_left_to_lm_eval(model: HfModel, kind: str) -> None:
    from lm_eval.models.huggingface import HFLM

    from raymill.evaluate.lm_engine import PrefixLM

    other = other_model(kind).eval()
    engine = PrefixLM(other, model.tokenizer, 4)
    assert engine.able is (kind != "bloom")
    theirs = HFLM(pretrained=other, tokenizer=model.tokenizer, batch_size=4, backend="causal")
    requests = asked("loglikelihood", [*choices()[:12], ("is late", " now")])
    found = engine.loglikelihood(requests, disable_tqdm=True)
    wanted = theirs.loglikelihood(requests, disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], rel=1e-4)
