"""What a GGUF file must show before it is registered: it loads, it has the version's chat template, and its predictions lie
within its type's bounds of those of F16.

llama.cpp runs in processes of their own. What was measured is kept, so an attempt that was killed goes on from there; it is
written into the file as well, in places that were left for it when the file was made.

Units: tokens, nats.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymill.evaluate.child import module_command, run_child
from raymill.evaluate.quantize import Metadata, QuantizedFile
from raymill.evaluate.quantize_config import Bounds
from raymill.policies.errors import Invalid

Report = dict[str, Any]

PREFIX = "raymill.verification."
MEASURED = ("perplexity", "perplexity_f16", "kl_mean", "kl_p99", "same_top")

PLACES: Metadata = {PREFIX + name: math.nan for name in MEASURED}
"""Left in a file for what is measured later; a number there takes no other room than nan."""


class OutOfBounds(Invalid):
    """A file lies too far from F16."""

    code = "out_of_bounds"


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """Measures the files of one model against its F16 file, over the same tokens."""

    f16: Path
    rows: Sequence[Sequence[int]]
    """Token ids; none where files are only loaded."""

    work: Path
    check: Callable[[], None]

    @property
    def base(self) -> Path:
        """Where the predictions of F16 are kept."""
        return self.work / "base"

    def measure(self, file: QuantizedFile) -> Report:
        """Numbers of `Divergence`; empty where there are no rows. Kept for the next attempt.

        Raises:
            ChildFailed: llama.cpp cannot load or run the file; the message has its last words.
        """
        if not self.rows:
            self._run("load", file.path, f"loading {file.path.name}", f"load-{file.type}.log")
            return {}
        report = self.work / f"verify-{file.type}.json"
        if not report.is_file():
            self._predict_base()
            partial = report.with_suffix(".partial")
            places = (str(self._texts()), str(self.base), str(partial))
            self._run("compare", file.path, f"measuring {file.path.name}", f"verify-{file.type}.log", *places)
            partial.rename(report)
        found: Report = json.loads(report.read_text(encoding="utf-8"))
        note(file.path, found)
        return found

    def _predict_base(self) -> None:
        if self.base.is_dir():
            return
        partial = self.base.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        what = f"predicting with {self.f16.name}"
        self._run("base", self.f16, what, "base.log", str(self._texts()), str(partial))
        partial.rename(self.base)

    def _texts(self) -> Path:
        texts = self.work / "texts.json"
        texts.write_text(json.dumps(self.rows), encoding="utf-8")
        return texts

    def _run(self, what: str, file: Path, doing: str, log: str, *more: str) -> None:
        threads = str(os.cpu_count() or 1)
        command = module_command("raymill.evaluate.divergence_process", what, str(file), threads, *more)
        run_child(command, doing, self.work / log, self.check)


def base_bytes(rows: Sequence[Sequence[int]], vocab: int) -> int:
    """What the predictions of F16 take on disk: 16 bits for each token of the vocabulary."""
    return sum(len(row) - 1 for row in rows) * (2 * vocab + 16)


def note(file: Path, report: Report) -> None:
    """Write what was measured into the places that were left for it. Again with the same numbers changes nothing."""
    from gguf import GGUFReader

    reader = GGUFReader(file, "r+")
    for name in MEASURED:
        place = reader.get_field(PREFIX + name)
        assert place is not None, "a file that is measured was made with PLACES"
        place.parts[place.data[0]][0] = report[name]
    reader.data.flush()


def check_template(file: Path, template: str | None) -> None:
    """Raises Invalid: the file's chat template is not the version's, so a server would ask it otherwise than trained."""
    from gguf import GGUFReader

    found = GGUFReader(file).get_field("tokenizer.chat_template")
    held = None if found is None else found.contents()
    if held != template:
        what = {True: "has no chat template", False: "has another chat template than its version"}[
            held is None
        ]
        raise Invalid(
            f"{file.name} {what}: give the base a tokenizer_config.json or chat_template.jinja with it"
        )


def require_within(kind: str, report: Report, bounds: Bounds, section: str = "quantize") -> None:
    """Hold what was measured against the bounds of a type. What was not measured is not held.

    Args:
        section: of the recipe, where the bounds stand.

    Raises:
        OutOfBounds: the message has the numbers, their bounds, and what can be done.
    """
    values = dict(report)
    if "perplexity" in report:
        values["perplexity_ratio"] = report["perplexity"] / report["perplexity_f16"]
    broken = [
        f"{name} {values[name]:.4g} ({'at least' if least else 'at most'} {bound:g})"
        for name, least in LEAST.items()
        if name in values
        and (bound := getattr(bounds, name)) is not None
        and not (values[name] >= bound if least else values[name] <= bound)
    ]
    if broken:
        origin, more = ORIGINS[section]
        raise OutOfBounds(
            f"{kind} is too far from {origin}: {', '.join(broken)}: take a larger type, give {section}.{more}, or widen "
            f"{section}.verify.bounds.{kind}",
            param=f"{section}.verify.bounds.{kind}",
        )


ORIGINS = {"quantize": ("F16", "importance"), "compress": ("the model", "calibration")}
"""Section of a recipe -> what its weights are held against, and what makes them better."""


LEAST = {"kl_mean": False, "kl_p99": False, "same_top": True, "perplexity_ratio": False, "agreement": True}
"""Name of a bound -> whether it is the least that will do, or the most."""
