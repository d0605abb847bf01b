"""Losses and gradients are those of TRL's own trainers, for the same model and rows, in fp32.

TRL averages over one device's batch; here that batch is the whole step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import Dataset, disable_progress_bars
from tests.train.tiny import loss_and_gradients, moved, plain, rows_of, steps_of, tiny_llama, tiny_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from raymill.train.config import TrainConfig
from raymill.train.methods import DpoLoss, Method
from raymill.train.objectives import TokenLoss
from raymill.train.preferences import AnswerShares, PairShares
from raymill.train.reference import take_reference

# Of TRL, accelerate and datasets, which warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = 7
SMOOTHING: Mapping[str, float] = {"exo_pair": 0.01, "robust": 0.1, "aot": 0.1, "aot_unpaired": 0.05}
START = tiny_llama(vocab=330)
LEARNT = moved(START)

Gradients = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    disable_progress_bars()
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def arguments(kind: Any, directory: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(directory),
        per_device_train_batch_size=ROWS,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        **more,
    )


def theirs(trainer: Any) -> tuple[float, Gradients]:
    """TRL's loss and gradients of one batch with all rows."""
    model = trainer.model
    model.zero_grad()
    model.train()
    loss = trainer.compute_loss(model, next(iter(trainer.get_train_dataloader())))
    loss.backward()
    return float(loss), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(mine: tuple[float, Gradients], other: tuple[float, Gradients]) -> None:
    assert mine[0] == pytest.approx(other[0], abs=1e-5, rel=1e-5)
    assert mine[1].keys() == other[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in other[1].values())
    for name, gradient in mine[1].items():
        distance = float((gradient - other[1][name]).abs().max())
        assert distance <= 1e-5 * max(1.0, largest), name


def learnt() -> nn.Module:
    return copy.deepcopy(LEARNT)


def test_sft_and_pretrain_are_trls(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    talks = [{"messages": row["messages"][:2]} for row in rows_of("conversation", ROWS)]
    answers = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in talks]
    texts = rows_of("text", ROWS)
    given: list[tuple[Method, Any, Any]] = [("sft", talks, answers), ("pretrain", texts, texts)]
    for method, rows, as_trl_has_them in given:
        trainer = SFTTrainer(
            learnt(),
            args=arguments(SFTConfig, tmp_path),
            train_dataset=Dataset.from_list(as_trl_has_them),
            processing_class=tokenizer,
        )
        config = TrainConfig(method=method, batch=ROWS)
        share = steps_of(config, tokenizer, rows).share(0, 0, 1)
        assert_equal(loss_and_gradients(LEARNT, config, share), theirs(trainer))


@pytest.fixture(scope="module")
def dpo_trainer(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        learnt(),
        ref_model=copy.deepcopy(START),
        args=arguments(DPOConfig, tmp_path_factory.mktemp("dpo")),
        train_dataset=Dataset.from_list(rows_of("preference", ROWS)),
        processing_class=tokenizer,
    )


@pytest.fixture
def same_pairs(dpo_trainer: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[Callable[..., None]]:
    """Compares a `dpo` section with TRL's trainer set likewise."""

    def compare(dpo: dict[str, Any], **set_on_trl: Any) -> None:
        config = TrainConfig.model_validate({"method": "dpo", "batch": ROWS, "dpo": dpo})
        shares = steps_of(config, tokenizer, rows_of("preference", ROWS))
        assert isinstance(shares, PairShares)
        take_pairs_reference(shares)
        for name, value in set_on_trl.items():
            setattr(dpo_trainer, name, value)
        assert_equal(loss_and_gradients(LEARNT, config, shares.share(0, 0, 1)), theirs(dpo_trainer))

    kept = dict(vars(dpo_trainer))
    yield compare
    vars(dpo_trainer).update(kept)


def take_pairs_reference(shares: PairShares | AnswerShares) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        assert take_reference(plain(copy.deepcopy(START), TokenLoss()), shares, Path(directory))


@pytest.mark.parametrize("loss", get_args(DpoLoss))
def test_each_dpo_loss_is_trls(same_pairs: Callable[..., None], loss: DpoLoss) -> None:
    smoothing = SMOOTHING.get(loss, 0.0)
    same_pairs(
        {"loss": loss, "label_smoothing": smoothing, "beta": 0.3},
        loss_types=[loss],
        label_smoothing=smoothing,
        beta=0.3,
    )


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_each_divergence_is_trls(same_pairs: Callable[..., None], divergence: str) -> None:
    same_pairs(
        {"divergence": divergence, "divergence_alpha": 0.7},
        f_divergence_type=divergence,
        f_alpha_divergence_coef=0.7,
    )


def test_several_losses_and_the_better_answers_own_loss_are_trls(same_pairs: Callable[..., None]) -> None:
    same_pairs(
        {"loss": {"sigmoid": 0.8, "bco_pair": 0.2}, "sft_weight": 0.5},
        loss_types=["sigmoid", "bco_pair", "sft"],
        loss_weights=[0.8, 0.2, 0.5],
    )


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_kto_is_trls(tokenizer: PreTrainedTokenizerBase, tmp_path: Path, loss: str, scale: float) -> None:
    from trl import KTOConfig, KTOTrainer

    model = moved(START, 0.02 * scale)  # one of the two has a positive estimate
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    config = TrainConfig.model_validate({"method": "kto", "batch": ROWS, "kto": {"loss": loss, **weights}})
    rows = rows_of("kto", ROWS)
    shares = steps_of(config, tokenizer, rows)
    assert isinstance(shares, AnswerShares)
    take_pairs_reference(shares)
    trainer = KTOTrainer(
        copy.deepcopy(model),
        ref_model=copy.deepcopy(START),
        args=arguments(KTOConfig, tmp_path, loss_type=loss, **weights),
        # TRL pairs a question with the answer before it in the file, ours with the one before it in the step.
        train_dataset=Dataset.from_list([rows[i] for i in shares.groups[0]]),
        processing_class=tokenizer,
    )
    assert_equal(loss_and_gradients(model, config, shares.share(0, 0, 1)), theirs(trainer))
