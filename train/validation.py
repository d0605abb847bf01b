"""The loss on held-out rows, computed beside the training by an actor of its own, and when to stop by it.

    validation/step-00000120.safetensors     the trained weights at that step, written by the first worker
    validation/history.jsonl                 one line for each that was measured

Weights are kept while they wait, or are the best, or are what the run stopped at. Everything can be asked again: what
was measured is read, not measured twice.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from raymill.train.run_config import EarlyStop

FOLDER = "validation"
HISTORY = "history.jsonl"
FILE = re.compile(r"step-(\d+)\.safetensors")


class Verdict(NamedTuple):
    """What the losses so far say."""

    best_step: int
    best_loss: float
    stop: bool
    """`patience` checks have passed without one that was better by `min_delta`."""

    stop_step: int
    """The step of the check that said so; 0 when none did."""


def verdict_of(losses: Mapping[int, float], early: EarlyStop | None) -> Verdict | None:
    """From the losses by step; None when there are none. What comes after the check that says stop counts no more."""
    best_step, best, worse = 0, math.inf, 0
    for step in sorted(losses):
        delta = early.min_delta if early is not None else 0.0
        if losses[step] < best - delta or best_step == 0:
            best_step, best, worse = step, losses[step], 0
        else:
            worse += 1
        if early is not None and worse >= early.patience:
            return Verdict(best_step, best, True, step)
    return Verdict(best_step, best, False, 0) if losses else None


class Snapshots:
    """The weights that wait to be measured, and what was measured. On storage that every node sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def write(self, step: int, weights: Mapping[str, Tensor], then: Callable[[], None]) -> None:
        """Copy the weights and write them in a thread, which then calls `then`. One at a time.

        Raises:
            OSError: the one before could not be written.
        """
        from safetensors.torch import save_file

        self.wait()
        copies = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}

        def work() -> None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                partial = self.path(step).with_suffix(".partial")
                save_file(copies, partial)
                partial.rename(self.path(step))
                then()
            except BaseException as error:  # noqa: BLE001 - the training thread raises it
                self._failure = error

        self._writing = threading.Thread(target=work, name=f"validation-{step}", daemon=True)
        self._writing.start()

    def wait(self) -> None:
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            raise self._failure

    def begin(self, after: int) -> list[int]:
        """Forget what lies after `after`, the step where the run goes on; steps that wait to be measured."""
        kept = {step: loss for step, loss in self.losses().items() if step <= after}
        if self.folder.is_dir():
            lines = [json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in kept.items()]
            partial = self.folder / f".{HISTORY}"
            partial.write_text("".join(lines), encoding="utf-8")
            partial.rename(self.folder / HISTORY)
        for step in self.steps():
            if step > after:
                self.path(step).unlink(missing_ok=True)
        return [step for step in self.steps() if step not in kept]

    def steps(self) -> list[int]:
        found = (FILE.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def losses(self) -> dict[int, float]:
        """What was measured, by step."""
        path = self.folder / HISTORY
        found: dict[int, float] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                point = json.loads(line)
                found[int(point["step"])] = float(point["loss"])
            except (ValueError, KeyError, TypeError):
                continue  # a line that a crash cut
        return found

    def measured(self, step: int, loss: float, early: EarlyStop | None) -> Verdict:
        """Note a loss, and remove weights that nobody needs any more."""
        with (self.folder / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "loss": loss}) + "\n")
        losses = self.losses()
        verdict = verdict_of(losses, early)
        assert verdict is not None
        for other in losses:
            if other not in (verdict.best_step, verdict.stop_step):
                self.path(other).unlink(missing_ok=True)
        return verdict
