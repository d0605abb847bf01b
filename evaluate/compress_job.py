"""The handler of the job kind `compress`: weights in fewer bits for vLLM, each held against the model before it is registered.

It runs in a process of its own (a Ray job's driver) and may be killed at any moment: finished weights and measurements lie in
`context.work_dir`, and the next attempt goes on from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.evaluate import sizes
from raymill.evaluate.actors import ActorPool, Size, join_ray
from raymill.evaluate.compress import Compressor, estimate
from raymill.evaluate.compress_config import CALIBRATED, CompressConfig, CompressedType
from raymill.evaluate.gguf_export import links_to
from raymill.evaluate.prompts import load_tokenizer
from raymill.evaluate.quantize_job import row_room
from raymill.evaluate.texts import text_path, token_rows
from raymill.evaluate.verification import base_bytes, require_within
from raymill.policies.errors import Invalid
from raymill.registry.artifacts import Published


def run_compress(context: JobContext) -> Outcome:
    """Write the trained model's weights in each type, and measure them against the model.

    Raises:
        Invalid: AWQ without a GPU.
        NoRoom: the disk cannot hold them.
        OutOfBounds: they lie too far from the model.
        ChildFailed: llm-compressor refused or crashed.
    """
    started = time.monotonic()
    config = CompressConfig.model_validate(dict(context.config))
    if "AWQ" in config.types and not config.gpus:
        raise Invalid(
            "llm-compressor makes AWQ on a GPU only: set compress.gpus to 1, or take GPTQ",
            param="compress.gpus",
        )
    model = context.verified(context.inputs["train"]["artifact"])
    dataset = context.verified(context.inputs["dataset"]["artifact"])
    tokenizer, work = load_tokenizer(model, chat=False), context.work_dir
    heldout = token_rows(
        text_path(config.verify, dataset / "test.jsonl"),
        tokenizer,
        row_tokens=row_room(model),
        tokens=config.verify.tokens,
    )
    tell_sizes(context, model, config.types, base_bytes(heldout, len(tokenizer)))
    texts = _kept(work / "texts.json", heldout)
    calibration = None
    if CALIBRATED & set(config.types):
        asked = config.calibration
        room = min(asked.row_tokens, row_room(model))
        path = text_path(asked, dataset / "train.jsonl")
        calibration = _kept(
            work / "calibration.json", token_rows(path, tokenizer, row_tokens=room, rows=asked.rows)
        )
    join_ray()
    reports: dict[CompressedType, JsonObject] = {}
    with ActorPool(Compressor, {}, Size(actors=1, gpus=config.gpus), check=context.check) as pool:
        for number, kind in enumerate(config.types):
            context.event("phase", name=f"compress to {kind}")
            rows = calibration if kind in CALIBRATED else None
            _call(
                pool,
                "compress",
                str(model),
                str(_folder(work, kind)),
                kind,
                rows,
                str(work / f"compress-{kind}.log"),
            )
            context.event("progress", done=number + 1, total=len(config.types), what="types")
        context.event("phase", name="predictions of the model")
        base = str(work / "base")
        _call(pool, "predict", str(model), texts, base, str(work / "base.log"))
        for kind in config.types:
            context.event("phase", name=f"verify {kind}")
            report = work / f"verify-{kind}.json"
            log = str(work / f"verify-{kind}.log")
            _call(pool, "measure", str(_folder(work, kind)), texts, base, str(report), log)
            reports[kind] = json.loads(report.read_text(encoding="utf-8"))
            require_within(kind, reports[kind], config.verify.bounds_of(kind), section="compress")
    published = {kind: _publish(context, work, kind) for kind in config.types}
    return Outcome(
        result={
            "artifacts": {kind: one.name for kind, one in published.items()},
            "files": [_row(kind, published[kind], reports[kind]) for kind in config.types],
            "metrics": reports,
            "seconds": round(time.monotonic() - started, 3),
        },
        artifacts=tuple(published.values()),
    )


def tell_sizes(context: JobContext, model: Path, types: Sequence[CompressedType], base: int) -> None:
    """Tell what will be written, and look whether there is room for what is not there yet. Raises NoRoom."""
    estimated = estimate(model, types)
    work = context.work_dir
    needed: dict[str, int] = {
        kind: size for kind, size in estimated.items() if not _folder(work, kind).is_dir()
    }
    if not (work / "base").is_dir():
        needed["predictions of the model"] = base
    free = sizes.require_room(work, needed)
    context.event("sizes", how="about", bytes=estimated, needed=needed, free=free)


def _folder(work: Path, kind: CompressedType) -> Path:
    return work / "compressed" / kind


def _kept(path: Path, rows: list[list[int]]) -> str:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def _call(pool: ActorPool, method: str, *arguments: Any) -> None:
    pool.map(method, [arguments], lambda position, result: None)  # noqa: ARG005 (files are what comes back)


def _publish(context: JobContext, work: Path, kind: CompressedType) -> Published:
    files = sorted(_folder(work, kind).iterdir())
    return context.publish(kind.lower(), links_to(files, work / f"publish-{kind}"))


def _row(kind: CompressedType, published: Published, report: JsonObject) -> JsonObject:
    """As `quantize` tells of a file."""
    weights = [file for file in published.files if file.path.endswith(".safetensors")]
    return {
        "type": kind,
        "artifact": published.name,
        "file": weights[0].path,
        "size_bytes": sum(file.size_bytes for file in weights),
        "sha256": published.digest,
        "tensors": {kind: len(weights)},
        "fallbacks": [],
        "parity": None,
        "verification": report,
    }
