"""Job handlers of this room: base, training. Each may be killed at any moment and started again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import Published, sha256_file
from raymill.train.card import CARD, Facts, card
from raymill.train.config import ImportConfig, PretrainConfig, TrainConfig
from raymill.train.export import count_parameters, import_model, link_tree
from raymill.train.methods import misfit_of
from raymill.train.metrics import FILE_POINTS, METRICS, read_points, repeatable, thinned, write_points

STAGING = "staging"
MEASURED = ("final_loss", "steps", "kept_step", "tokens", "tokens_per_s", "seconds", "metrics", "series")


def run_pretrain(context: JobContext) -> Outcome:
    """Train a tokenizer and a small Llama from text."""
    from raymill.train.pretrain import pretrain

    config = PretrainConfig.model_validate(without_digests(context.config))
    check_digest(Path(config.text), context.config.get("text_sha256"))
    done = pretrain(config, context)
    describe(context, "export", "pretrain", done)
    published = publish_export(context, "base", "export")
    return outcome(
        published,
        parameters=count_parameters(context.path(published.name)),
        **{key: done[key] for key in MEASURED},
    )


def run_import_base(context: JobContext) -> Outcome:
    """Take a base that exists: from a directory, or from the Hugging Face hub."""
    config = ImportConfig.model_validate(without_digests(context.config))
    source = Path(config.path) if config.path is not None else download(config)
    staging = context.work_dir / STAGING
    import_model(source, staging)
    published = context.publish("base", staging)
    return outcome(published, parameters=count_parameters(context.path(published.name)))


def download(config: ImportConfig) -> Path:
    """A snapshot of a hub repository: safetensors and text files alone.

    Raises:
        NotFound: the hub has no such repository or revision, or cannot be reached.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    assert config.hub is not None
    try:
        found = snapshot_download(
            config.hub,
            revision=config.revision,
            allow_patterns=[
                "*.safetensors",
                "*.safetensors.index.json",
                "*.json",
                "*.model",
                "*.txt",
                "*.jinja",
                CARD,
                METRICS,
            ],
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.TransportError) as error:
        wanted = f"{config.hub}@{config.revision}" if config.revision else config.hub
        raise NotFound(
            f"base {wanted} cannot be fetched from the hub: check the name and the network"
        ) from error
    return Path(found)


def run_train(context: JobContext) -> Outcome:
    """Tune the base on the data set; publish the merged model, and the adapter if there is one."""
    from raymill.train.tuning import ADAPTER, tune

    config = TrainConfig.model_validate(context.config)
    refuse_misfit(config, context)
    base = context.path(context.inputs["base"]["artifact"])
    train_file = context.path(context.inputs["dataset"]["artifact"]) / "train.jsonl"
    done, size = tune(config, base, train_file, context)
    facts = {"rows": size.rows, "trained_token_share": size.trained_token_share}
    for folder in ("export", *([ADAPTER] if config.lora is not None else [])):
        describe(context, folder, config.method, {**done, **facts})
    published = publish_export(context, "model", "export")
    adapter = publish_export(context, "adapter", ADAPTER) if config.lora is not None else None
    return outcome(
        published,
        *([adapter] if adapter else []),
        adapter=adapter.name if adapter else None,
        **facts,
        **{key: done[key] for key in MEASURED},
    )


def refuse_misfit(config: TrainConfig, context: JobContext) -> None:
    """Raises Invalid: the method does not learn from rows of the data set's shape."""
    misfit = misfit_of(config.method, context.inputs["dataset"].get("shape", "conversation"))
    if misfit is not None:
        raise Invalid(misfit, param="train.method")


def describe(
    context: JobContext, folder: str, method: str, result: JsonObject, config: JsonObject | None = None
) -> None:
    """Put the model card and the curves beside the weights; `config` where it is not the job's."""
    directory = context.work_dir / folder
    points = repeatable(thinned(read_points(context.work_dir / METRICS), FILE_POINTS))
    write_points(points, directory / METRICS)
    base, dataset = context.inputs.get("base"), context.inputs.get("dataset")
    facts = Facts(
        name=context.name,
        method=method,
        config=without_digests(config or context.config),
        base=base,
        data=dataset or {"digest": context.config.get("text_sha256")},
        result=result,
        points=points,
    )
    (directory / CARD).write_text(card(facts), encoding="utf-8")


def outcome(published: Published, *others: Published, **result: Any) -> Outcome:
    return Outcome(
        result={"digest": published.digest, "artifact": published.name, **result},
        artifacts=(published, *others),
    )


def publish_export(context: JobContext, kind: str, folder: str) -> Published:
    """Publish a copy, so that an attempt that dies before its end is recorded finds the export again."""
    staging = context.work_dir / STAGING
    link_tree(context.work_dir / folder, staging)
    return context.publish(kind, staging)


def without_digests(config: JsonObject) -> JsonObject:
    return {key: value for key, value in config.items() if not key.endswith("_sha256")}


def check_digest(path: Path, expected: str | None) -> None:
    """The file must be the one that was submitted.

    Raises:
        NotFound: it is gone.
        Invalid: its content changed since.
    """
    if not path.is_file():
        raise NotFound(f"{path} does not exist: put it back and run the recipe again")
    if expected is not None and sha256_file(path) != expected:
        raise Invalid(f"{path} has changed since the recipe was submitted: run the recipe again")


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
