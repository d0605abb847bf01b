"""The handlers of the job kinds `quantize` and `export_gguf`.

Both run in a process of their own (a Ray job's driver) and may be killed at any moment: finished files and measurements lie
in `context.work_dir`, and the next attempt goes on from there. Native code runs in children of the driver.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.evaluate import sizes
from raymill.evaluate.actors import ActorPool, Size, join_ray
from raymill.evaluate.calibration import Importance, measure_importance
from raymill.evaluate.gguf_export import export_f16, links_to
from raymill.evaluate.gguf_model import GgufModel
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.parity import answers_of_model, parity_of_file
from raymill.evaluate.prompts import Row, load_tokenizer, read_rows
from raymill.evaluate.quantize import QuantizedFile, quantize
from raymill.evaluate.quantize_config import WITHOUT_IMPORTANCE, GgufType, QuantizeConfig, VerifyConfig
from raymill.evaluate.texts import asks_nothing, text_path, token_rows
from raymill.evaluate.verification import PLACES, Verifier, base_bytes, check_template, require_within
from raymill.registry.artifacts import Published

ROW_TOKENS = 512
"""Texts are measured in pieces of at most so many tokens."""


def run_quantize(context: JobContext) -> Outcome:
    """Export the trained model to GGUF, quantize it to each type, and hold each file against it.

    Raises:
        NoRoom: the disk cannot hold the files.
        OutOfBounds: a file is too far from F16, or from the model's own answers.
    """
    started = time.monotonic()
    config = QuantizeConfig.model_validate(dict(context.config))
    model = context.verified(context.inputs["train"]["artifact"])
    dataset = context.verified(context.inputs["dataset"]["artifact"])
    rows = parity_rows(context, config, dataset / "test.jsonl")
    join_ray()
    # The model loads in an actor while the converter runs: each needs its ten seconds of imports.
    with ActorPool(
        HfModel, {"directory": str(model)}, Size(actors=1 if rows else 0), check=context.check
    ) as pool:
        making = Making(context, config, model, dataset)
        files = making.files()
        reports = [making.verify(file) for file in files]
        context.event("phase", name="parity: answers of the model")
        theirs = answers_of_model(pool, rows, config.max_new_tokens)
    parities: list[JsonObject | None] = [None] * len(files)
    if rows:
        with ActorPool(
            GgufModel,
            {"directory": str(model)},
            Size(actors=1),
            check=context.check,
        ) as pool:
            for number, file in enumerate(files):
                context.event("phase", name=f"parity: answers of {file.type}")
                found = parity_of_file(pool, file.path, rows, theirs, config.max_new_tokens)
                require_within(file.type, found, config.verify.bounds_of(file.type))
                parities[number] = found
    published = context.publish("gguf", links_to([file.path for file in files], context.work_dir / "publish"))
    return Outcome(
        result={
            "digest": published.digest,
            "artifact": published.name,
            "files": [
                {
                    **file.as_json(),
                    "sha256": digest_of(published, file),
                    "planned_bytes": making.planned[file.type],
                    "parity": parity,
                    "verification": report,
                }
                for file, parity, report in zip(files, parities, reports, strict=True)
            ],
            "metrics": {file.type: report for file, report in zip(files, reports, strict=True)},
            "seconds": round(time.monotonic() - started, 3),
        },
        artifacts=(published,),
    )


def run_export_gguf(context: JobContext) -> Outcome:
    """One GGUF file of a trained model, with the model's card beside it, for someone who takes it away."""
    config = QuantizeConfig(
        types=tuple(context.config["types"]), parity_prompts=0, verify=VerifyConfig(tokens=0)
    )
    model = context.verified(context.config["artifact"])
    making = Making(context, config, model, None)
    files = making.files()
    for file in files:
        making.verify(file)
    directory = context.work_dir / "publish"
    published = context.publish("gguf", links_to([file.path for file in files], directory, card_of=model))
    return Outcome(result={"digest": published.digest, "artifact": published.name}, artifacts=(published,))


class Making:
    """The files of one model, from the first look at the disk to the last measurement."""

    def __init__(
        self, context: JobContext, config: QuantizeConfig, model: Path, dataset: Path | None
    ) -> None:
        self.context = context
        self.config = config
        self.model = model
        self.dataset = dataset
        self.tokenizer = load_tokenizer(model, chat=False)
        self.f16 = context.work_dir / "export" / f"{context.name}.gguf"
        self.planned: dict[GgufType, int] = {}
        """Bytes of a file of each type, by llama.cpp's dry run."""

        self.verifier = Verifier(
            f16=self.f16, rows=self._heldout(), work=context.work_dir, check=context.check
        )

    def files(self) -> list[QuantizedFile]:
        """F16 first, then each type from it."""
        context, types = self.context, self.config.types
        estimated = sizes.estimate(self.model, ("F16", *types))
        self._tell_sizes(
            "about", {"the F16 export": estimated["F16"]}, {kind: estimated[kind] for kind in types}
        )
        context.event("phase", name="convert")
        export_f16(self.model, self.f16, context.work_dir, context.check)
        self.planned = sizes.planned(self.f16, types, context.work_dir, context.check)
        self._tell_sizes("exactly", {}, self.planned)
        importance = self._importance()
        made: list[QuantizedFile] = []
        for kind in types:
            context.event("phase", name=f"quantize to {kind}")
            target = self._target(kind)
            matrix = None if kind in WITHOUT_IMPORTANCE else importance
            made.append(
                quantize(
                    self.f16,
                    target,
                    kind,
                    context.work_dir,
                    context.check,
                    importance=matrix.path if matrix else None,
                    metadata={
                        **(PLACES if self.verifier.rows else {}),
                        **(matrix.metadata if matrix else {}),
                    },
                )
            )
            for tensor in made[-1].tensors.fallbacks:
                fell = made[-1].tensors.types[tensor]
                context.event("log", text=f"{kind}: {tensor} is {fell}, its rows do not fit the type")
            context.event("progress", done=len(made), total=len(types), what="files")
        return made

    def verify(self, file: QuantizedFile) -> JsonObject:
        """What was measured of a file. Raises OutOfBounds, Invalid, ChildFailed: it must not be registered."""
        self.context.event("phase", name=f"verify {file.type}")
        check_template(file.path, self.tokenizer.chat_template)
        report = self.verifier.measure(file)
        require_within(file.type, report, self.config.verify.bounds_of(file.type))
        return report

    def _target(self, kind: str) -> Path:
        return self.context.work_dir / "gguf" / f"{self.context.name}-{kind}.gguf"

    def _heldout(self) -> list[list[int]]:
        """What files are measured on."""
        if self.dataset is None or not self.config.verify.tokens:
            return []
        path = text_path(self.config.verify, self.dataset / "test.jsonl")
        return token_rows(
            path, self.tokenizer, row_tokens=row_room(self.model), tokens=self.config.verify.tokens
        )

    def _importance(self) -> Importance | None:
        asked = self.config.importance
        if asked is None or self.dataset is None:
            return None
        self.context.event("phase", name="importance matrix")
        path = text_path(asked, self.dataset / "train.jsonl")
        room = min(asked.row_tokens, row_room(self.model))
        rows = token_rows(path, self.tokenizer, row_tokens=room, rows=asked.rows)
        return measure_importance(self.f16, rows, path.name, self.context.work_dir, self.context.check)

    def _tell_sizes(self, how: str, more: dict[str, int], files: dict[Any, int]) -> None:
        """Tell what will be written, and look whether there is room for what is not there yet."""
        needed = {what: size for what, size in more.items() if not self.f16.is_file()}
        needed |= {kind: size for kind, size in files.items() if not self._target(kind).is_file()}
        if self.verifier.rows and not self.verifier.base.is_dir():
            needed["predictions of F16"] = base_bytes(self.verifier.rows, len(self.tokenizer))
        free = sizes.require_room(self.context.work_dir, needed)
        self.context.event("sizes", how=how, bytes=files, needed=needed, free=free)
        if needed:
            listed, total = sizes.listed(needed), sizes.shown(sum(needed.values()))
            self.context.event(
                "log", text=f"{how} {total} will be written ({listed}), {sizes.shown(free)} are free"
            )


def parity_rows(context: JobContext, config: QuantizeConfig, test: Path) -> list[Row]:
    """The held-out prompts that are answered by the model and its files; none where the set is plain text."""
    if not config.parity_prompts:
        return []
    if asks_nothing(test):
        context.event("log", text="no parity check: the held-out rows are plain text, which asks nothing")
        return []
    return read_rows(test, config.parity_prompts)


def row_room(model: Path) -> int:
    """Tokens of a row that a model takes."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return min(ROW_TOKENS, int(config.get("max_position_embeddings") or ROW_TOKENS))


def digest_of(published: Published, file: QuantizedFile) -> str:
    return next(each.sha256 for each in published.files if each.path == file.path.name)
