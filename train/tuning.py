"""Tuning of any base on a data set, by any method, with adapters or with all weights.

The driver turns rows into ids, so that a row that does not fit is told before a worker starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymill.cluster.context import JobContext, JsonObject
from raymill.cluster.settings import Settings
from raymill.train import encoded
from raymill.train.config import TrainConfig
from raymill.train.encoded import Encoded, Size
from raymill.train.holdout import held_out
from raymill.train.launch import EXPORT, Validation, launch

if TYPE_CHECKING:
    from raymill.train.loop import Shares
    from raymill.train.objectives import Objective
    from raymill.train.worker import Task

EXAMPLES = "examples.npz"
HELD_OUT = "held-out.npz"
ADAPTER = "adapter"


def tune(config: TrainConfig, base: Path, train_file: Path, context: JobContext) -> tuple[JsonObject, Size]:
    """Tune `base` on `train_file` (normal form) into `export/`, and `adapter/` with LoRA.

    Raises:
        Invalid: an example is longer than `max_tokens`, or the base cannot be tuned so.
    """
    prepare(config, base, train_file, context)
    size = encoded.read(context.work_dir / EXAMPLES).size()
    context.event(
        "log", text=f"{size.rows} rows, {size.tokens} tokens, {size.trained_token_share:.0%} trained"
    )
    beside = Validation(measured_task_of, config.early_stop) if config.validation is not None else None
    settings = {"config": config.model_dump(), "base": str(base)}
    return launch(tune_worker, settings, config, context, beside), size


def prepare(config: TrainConfig, base: Path, train_file: Path, context: JobContext) -> None:
    """Write the rows as ids to the work directory, those that only validation sees apart; once for a job.

    Raises:
        Invalid: an example is longer than `max_tokens`, or too few rows are there to hold any out.
    """
    from raymill.train.tokenizer import load_tokenizer

    examples_file = context.work_dir / EXAMPLES
    if examples_file.is_file():
        return
    context.event("phase", name="tokenize")

    def tell(done: int, total: int) -> None:
        context.event("progress", done=done, total=total, what="rows")
        context.check()

    lines = encoded.lines_of(train_file)
    data = encoded.encode_lines(config, load_tokenizer(base), lines, tell)
    # Numbers of the rows that only validation sees.
    apart = held_out(lines, config.validation) if config.validation is not None else set()
    if apart:
        encoded.write(data.of_rows(apart), context.work_dir / HELD_OUT)
    # Written last: with it the preparation is whole.
    encoded.write(data.of_rows(set(range(data.rows)) - apart), examples_file)


def tune_worker(settings: JsonObject) -> None:
    """What each Ray Train worker runs."""
    from raymill.train.worker import run_worker

    run_worker(settings, task_of)


def task_of(settings: JsonObject) -> Task:
    from raymill.train.models import build_model
    from raymill.train.tokenizer import load_tokenizer
    from raymill.train.worker import Task

    config = TrainConfig.model_validate(settings["config"])
    # The driver, which names the base, may be on another node.
    work_dir, base = Path(settings["work_dir"]), Settings().artifacts.here(Path(settings["base"]))
    tokenizer = load_tokenizer(base)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    validate, pad_id = config.validation, pad_id or 0
    return Task(
        build=lambda: build_model(config, base),
        shares=shares_of(config, encoded.read(work_dir / EXAMPLES), pad_id),
        objective=objective_of(config),
        validation=(
            shares_of(config, encoded.read(work_dir / HELD_OUT), pad_id, epochs=1) if validate else None
        ),
        validate_every=validate.every if validate else 0,
        early_stop=config.early_stop,
        export=lambda model: export(model, config, base, work_dir),
        use=config,
        learning_rate=config.learning_rate,
        warmup_share=config.warmup_share,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
    )


def measured_task_of(settings: JsonObject) -> Task:
    """The task as the validating actor has it: on whole weights, for it may have no GPU to hold 4 bits on."""
    config = TrainConfig.model_validate(settings["config"])
    if config.lora is not None:
        whole = config.lora.model_copy(update={"quantize": None})
        config = config.model_copy(update={"lora": whole})
    return task_of({**settings, "config": config.model_dump()})


def shares_of(config: TrainConfig, data: Encoded, pad_id: int, *, epochs: int | None = None) -> Shares:
    """The steps of a run, by its method; `epochs` where they are not the configuration's."""
    from raymill.train.batches import ExampleShares
    from raymill.train.preferences import AnswerShares, PairShares

    how: dict[str, Any] = {
        "batch": config.batch,
        "epochs": config.epochs if epochs is None else epochs,
        "seed": config.seed,
        "pad_id": pad_id,
        "packing": config.packing,
        "pass_tokens": config.micro_tokens,
    }
    match config.method:
        case "dpo":
            return PairShares(data.examples, **how)
        case "kto":
            assert config.kto is not None
            return AnswerShares(data.examples, data.good, estimate=config.kto.loss == "kto", **how)
        case "pretrain" | "sft" | "tool":
            return ExampleShares(data.examples, **how)


def objective_of(config: TrainConfig) -> Objective:
    """What a run minimises, by its method."""
    from raymill.train.objectives import AnswerLoss, PairLoss, TokenLoss

    match config.method:
        case "dpo":
            assert config.dpo is not None
            return PairLoss(config.dpo)
        case "kto":
            assert config.kto is not None
            return AnswerLoss(config.kto)
        case "pretrain" | "sft" | "tool":
            return TokenLoss()


def export(model: Any, config: TrainConfig, base: Path, work_dir: Path) -> None:
    """The tuned model with adapters merged, in the base's own precision; the adapters apart as well."""
    from raymill.train.export import stop_tokens, write_model
    from raymill.train.models import merged
    from raymill.train.tokenizer import load_tokenizer

    whole = merged(model, config, base, work_dir / ADAPTER)
    write_model(whole, base, work_dir / EXPORT, stop_tokens(load_tokenizer(base)))
