"""The loop on a real, very small Llama: what must not change the loss does not change it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from raymill.train.batches import ExampleShares
from raymill.train.engines import PlainEngine
from raymill.train.loop import Diverged, Schedule, StepMetrics, train
from raymill.train.summed_loss import SummedLoss
from raymill.train.template import IGNORE, Example

EXAMPLES = [
    Example([n, *range(20, 24 + n % 7), n], [IGNORE, IGNORE, *range(21, 24 + n % 7), n]) for n in range(1, 13)
]


def tiny_llama(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            attention_dropout=dropout,
        )
    )
    return model


def engine(dropout: float = 0.0) -> PlainEngine:
    model = SummedLoss(tiny_llama(dropout), bf16=False)
    return PlainEngine(model, device=torch.device("cpu"), weight_decay=0.1, max_grad_norm=1.0)


def shares(*, packing: bool = True, pass_tokens: int = 4096) -> ExampleShares:
    return ExampleShares(
        EXAMPLES, batch=5, epochs=3, seed=3, pad_id=0, packing=packing, pass_tokens=pass_tokens
    )


def ignore(step: int, loss: float, tokens: int) -> None:
    """For runs that save nothing."""


def run(
    on: PlainEngine,
    data: ExampleShares,
    *,
    start: int = 0,
    peak: float = 1e-2,
    after: Callable[[int, float, int], None] = ignore,
) -> list[StepMetrics]:
    told: list[StepMetrics] = []
    schedule = Schedule(peak=peak, steps=data.steps, warmup_share=0.1)
    train(on, data, schedule, seed=5, start=start, tell=told.append, after=after)
    return told


def losses(told: list[StepMetrics]) -> list[float]:
    return [metrics.loss for metrics in told]


def test_the_loss_falls_and_every_step_is_told() -> None:
    told = run(engine(), shares())
    assert [metrics.step for metrics in told] == list(range(1, 10))
    assert told[-1].loss < told[0].loss / 2
    assert told[-1].eta_s == 0
    assert all(metrics.grad_norm > 0 and metrics.tokens_per_s > 0 for metrics in told)


def test_packing_and_smaller_passes_do_not_change_the_loss() -> None:
    plain = losses(run(engine(), shares(packing=False)))
    assert losses(run(engine(), shares(packing=True))) == pytest.approx(plain, rel=1e-4)
    assert losses(run(engine(), shares(packing=False, pass_tokens=12))) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_repeats_the_losses_exactly(tmp_path: Path, dropout: float) -> None:
    first = engine(dropout)

    def save_at_four(step: int, loss: float, tokens: int) -> None:  # noqa: ARG001
        if step == 4:
            first.save(tmp_path)

    whole = run(first, shares(), after=save_at_four)
    second = engine(dropout)
    second.load(tmp_path)
    assert losses(run(second, shares(), start=4)) == losses(whole)[4:]


def test_a_finished_run_does_no_further_step() -> None:
    done = engine()
    before = {name: weight.clone() for name, weight in done.weights().items()}
    assert run(done, shares(), start=9) == []
    assert all(torch.equal(weight, before[name]) for name, weight in done.weights().items())


def test_a_loss_that_is_no_number_ends_the_run_with_the_cure() -> None:
    broken = engine()
    with torch.no_grad():
        next(iter(broken._model.parameters())).fill_(float("nan"))
    with pytest.raises(Diverged, match="the loss is nan at step 1: lower learning_rate"):
        run(broken, shares())


def test_the_learning_rate_rises_then_falls_to_a_tenth() -> None:
    schedule = Schedule(peak=1.0, steps=100, warmup_share=0.1)
    assert [schedule.at(step) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert schedule.at(55) == pytest.approx(0.55)
    assert schedule.at(99) == pytest.approx(0.1, abs=1e-3)
