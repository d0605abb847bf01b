"""A LoRA adapter as a GGUF file of its own: `llama-server -m base-F16.gguf --lora adapter.gguf`.

Written by llama.cpp's own converter in a process of its own, and given away only once llama.cpp has loaded it on the
base and answered held-out prompts as the merged model does.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.evaluate.fetch_converter import LORA_SCRIPT, converter_script
from raymill.evaluate.gguf_export import converted, export_f16, links_to
from raymill.evaluate.llama_cpp_runner import LlamaCppRunner
from raymill.evaluate.prompts import load_tokenizer, read_rows, render_all, stop_ids, token_ids
from raymill.evaluate.quantize_config import AdapterType
from raymill.evaluate.texts import asks_nothing
from raymill.evaluate.verification import OutOfBounds
from raymill.policies.errors import Invalid

CONFIG = "adapter_config.json"

PROMPTS, NEW_TOKENS = 20, 32
SAME_FIRST = 0.9
"""Share of prompts whose answer must begin as that of the merged model, whose sums are rounded to 16 bits elsewhere."""


def run_export_adapter(context: JobContext) -> Outcome:
    """Config: `artifact` (the adapter), `base`, `model` (both merged), `dataset` or null, `type`.

    Raises:
        Invalid: llama.cpp has nothing like this adapter.
        OutOfBounds: base and adapter together do not answer as the merged model.
        ChildFailed: the converter or llama.cpp refused it; the message has its last words.
    """
    config, work, check = context.config, context.work_dir, context.check
    adapter, base, model = (context.verified(config[name]) for name in ("artifact", "base", "model"))
    target = work / "adapter" / f"{context.name}-adapter-{config['type']}.gguf"
    context.event("phase", name="convert the adapter")
    export_adapter(adapter, base, target, config["type"], work, check)
    context.event("phase", name="convert base and model")
    base_file, model_file = work / "export" / "base.gguf", work / "export" / "model.gguf"
    export_f16(base, base_file, work, check)
    export_f16(model, model_file, work, check)
    context.event("phase", name="verify")
    rows = context.verified(config["dataset"]) / "test.jsonl" if config.get("dataset") else None
    tokenizer = load_tokenizer(model, chat=False)
    prompts, stops = prompts_in(rows, tokenizer), stop_ids(tokenizer, model)
    report = compared(prompts, stops, model_file, base_file, target)
    context.event("log", text=f"{report['same']} of {report['prompts']} answers are the merged model's")
    if report["same_first_token"] < SAME_FIRST * report["prompts"]:
        raise OutOfBounds(
            f"with the adapter {report['same_first_token']} of {report['prompts']} answers begin as those of the merged "
            f"model, fewer than {SAME_FIRST:.0%}: export it as gguf, merged"
        )
    published = context.publish("gguf", links_to([target], work / "publish", card_of=adapter))
    return Outcome(
        result={"digest": published.digest, "artifact": published.name, "metrics": report},
        artifacts=(published,),
    )


def export_adapter(
    adapter: Path, base: Path, target: Path, kind: AdapterType, work: Path, check: Callable[[], None]
) -> None:
    """Write `target` (a .gguf file) from an adapter in PEFT's layout. An earlier attempt's file is kept.

    Args:
        base: only its config.json is read.

    Raises:
        Invalid: llama.cpp has nothing like this adapter.
        Unavailable: the converter was not fetched.
        ChildFailed: the converter refused it; the message has its last words.
    """
    if target.is_file():
        return
    prepared = prepare(adapter, work / "adapter-hf")
    given = ("--base", str(base), "--outtype", kind.lower(), str(prepared))
    log = work / "convert-adapter.log"
    with converted(converter_script(LORA_SCRIPT), given, adapter.name, target, log, check):
        pass


def prepare(adapter: Path, folder: Path) -> Path:
    """A copy by links that llama.cpp scales as PEFT does: it divides alpha by the rank, always.

    Raises:
        Invalid: DoRA, other ranks for some modules, or weights that are no adapter's.
    """
    config: dict[str, Any] = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    for key, what in (
        ("use_dora", "DoRA"),
        ("rank_pattern", "ranks by module"),
        ("alpha_pattern", "alphas by module"),
        ("modules_to_save", "modules that are trained whole"),
    ):
        if config.get(key):
            raise Invalid(
                f"llama.cpp has no {what} in adapters: export the run as gguf, merged", param="form"
            )
    if config.get("use_rslora"):
        config["lora_alpha"] = config["lora_alpha"] * math.sqrt(config["r"])
        config["use_rslora"] = False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    weights = "adapter_model.safetensors"
    (folder / weights).symlink_to((adapter / weights).resolve())
    return folder


def prompts_in(rows: Path | None, tokenizer: Any) -> list[list[int]]:
    """Ids of held-out prompts; where there are none, or no template to ask them with, of what the vocabulary begins with."""
    if rows is None or not rows.is_file() or asks_nothing(rows) or tokenizer.chat_template is None:
        known = len(tokenizer)
        return [[(start * 7 + step) % known for step in range(8)] for start in range(1, PROMPTS + 1)]
    asked = read_rows(rows, PROMPTS)
    prompts = render_all(tokenizer, [row.messages for row in asked], [row.tools for row in asked])
    return [token_ids(tokenizer, prompt) for prompt in prompts]


def compared(
    prompts: list[list[int]], stops: list[int], model_file: Path, base_file: Path, adapter_file: Path
) -> JsonObject:
    """Greedy answers by the merged model and by base and adapter: `prompts`, `same`, `same_first_token`."""

    def answers(file: Path, adapter: Path | None) -> list[list[int]]:
        with LlamaCppRunner(file, adapter=adapter) as runner:
            return runner.generate(prompts, max_new_tokens=NEW_TOKENS, stops=stops)

    pairs = list(zip(answers(model_file, None), answers(base_file, adapter_file), strict=True))
    return {
        "prompts": len(pairs),
        "same": sum(one == other for one, other in pairs),
        "same_first_token": sum(one[:1] == other[:1] for one, other in pairs),
    }
