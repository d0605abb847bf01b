"""How far one model's predictions lie from another's: perplexity and Kullback-Leibler divergence, from logits.

The distributions of the base (F16) are kept on disk as llama.cpp's `perplexity --kl-divergence-base` keeps them: 16 bits
for each token of the vocabulary, linear in the log-probability, of which those 16 below the likeliest token's
and less are taken for nothing (tools/perplexity/perplexity.cpp). That alone makes a divergence of about 1e-5.

Shapes: N tokens that are predicted, V tokens in the vocabulary. Units: nats. Pure NumPy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

REACH = 16.0
"""Log-probabilities further below the likeliest one's are kept as nothing."""

STEPS = 65535

LOG_PROBS = "log_probs.u16"
ROWS = "rows.npy"
SHAPE = "shape.json"
ROW = np.dtype([("least", "<f4"), ("step", "<f4"), ("nll", "<f4"), ("top", "<i4")])


def log_softmax(logits_NV: Floats) -> Floats:
    """Log-probabilities of each token of the vocabulary."""
    shifted_NV = logits_NV - logits_NV.max(axis=1, keepdims=True)
    log_probs_NV: Floats = shifted_NV - np.log(np.exp(shifted_NV).sum(axis=1, keepdims=True))
    return log_probs_NV


class BaseWriter:
    """Keeps the base's predictions, a batch after the other. `rows.npy` comes last: without it there is no base."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._file = (directory / LOG_PROBS).open("wb")
        self._rows: list[NDArray[Any]] = []
        self._vocab = 0

    def add(self, targets_N: Ids, logits_NV: Floats) -> None:
        log_probs_NV = log_softmax(logits_NV)
        most_N = log_probs_NV.max(axis=1)
        rows_N = np.zeros(len(targets_N), dtype=ROW)
        rows_N["least"] = np.maximum(log_probs_NV.min(axis=1), most_N - REACH)
        rows_N["step"] = np.maximum(most_N - rows_N["least"], 1e-6) / STEPS
        rows_N["nll"] = -log_probs_NV[np.arange(len(targets_N)), targets_N]
        rows_N["top"] = log_probs_NV.argmax(axis=1)
        kept_NV = (log_probs_NV - rows_N["least"][:, None]) / rows_N["step"][:, None]
        self._file.write(np.clip(np.rint(kept_NV), 0, STEPS).astype("<u2").tobytes())
        self._rows.append(rows_N)
        self._vocab = log_probs_NV.shape[1]

    def close(self) -> None:
        self._file.close()
        (self.directory / SHAPE).write_text(json.dumps({"vocab": self._vocab}), encoding="utf-8")
        np.save(self.directory / ROWS, np.concatenate(self._rows))


class Base:
    """The base's predictions, read back in the order in which they were kept."""

    def __init__(self, directory: Path) -> None:
        self.rows: NDArray[Any] = np.load(directory / ROWS)
        vocab = json.loads((directory / SHAPE).read_text(encoding="utf-8"))["vocab"]
        self._log_probs: NDArray[np.uint16] = np.memmap(
            directory / LOG_PROBS, dtype="<u2", mode="r", shape=(len(self.rows), vocab)
        )
        self._at = 0

    @property
    def perplexity(self) -> float:
        return math.exp(float(self.rows["nll"].mean(dtype=np.float64)))

    def take(self, count: int) -> tuple[NDArray[Any], Floats]:
        """The next `count` tokens: rows_N, and log_probs_NV with -inf for what is nothing."""
        rows_N = self.rows[self._at : self._at + count]
        kept_NV = self._log_probs[self._at : self._at + count]
        self._at += count
        log_probs_NV = rows_N["least"][:, None] + rows_N["step"][:, None] * kept_NV.astype(np.float32)
        log_probs_NV[kept_NV == 0] = -np.inf
        return rows_N, log_probs_NV


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """How a file's predictions compare with those of F16, over the same tokens."""

    tokens: int
    perplexity: float
    perplexity_f16: float
    kl_mean: float
    kl_p99: float
    same_top: float
    """Share of tokens with the same likeliest successor."""

    @property
    def perplexity_ratio(self) -> float:
        return self.perplexity / self.perplexity_f16

    def as_json(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "perplexity": self.perplexity,
            "perplexity_f16": self.perplexity_f16,
            "kl_mean": self.kl_mean,
            "kl_p99": self.kl_p99,
            "same_top": self.same_top,
        }


@dataclass
class Comparison:
    """Adds up what `Divergence` tells."""

    base: Base
    nll: list[Floats] = field(default_factory=list)
    kl: list[Floats] = field(default_factory=list)
    same: int = 0

    def add(self, targets_N: Ids, logits_NV: Floats) -> None:
        """The file's logits for the tokens that the base was kept for next."""
        rows_N, base_NV = self.base.take(len(targets_N))
        ours_NV = log_softmax(logits_NV)
        self.nll.append(-ours_NV[np.arange(len(targets_N)), targets_N])
        apart_NV = np.where(np.isfinite(base_NV), base_NV - ours_NV, 0)
        self.kl.append((np.exp(base_NV) * apart_NV).sum(axis=1))
        self.same += int((ours_NV.argmax(axis=1) == rows_N["top"]).sum())

    def result(self) -> Divergence:
        kl_N = np.maximum(np.concatenate(self.kl), 0)
        return Divergence(
            tokens=len(kl_N),
            perplexity=math.exp(float(np.concatenate(self.nll).mean(dtype=np.float64))),
            perplexity_f16=self.base.perplexity,
            kl_mean=float(kl_N.mean(dtype=np.float64)),
            kl_p99=float(np.quantile(kl_N, 0.99)),
            same_top=self.same / len(kl_N),
        )


def in_pieces(targets_N: Ids, logits_NV: Floats, values: int = 1 << 23) -> Iterator[tuple[Ids, Floats]]:
    """The same in pieces of about so many values, so that what is computed of them stays small."""
    step = max(1, values // logits_NV.shape[1])
    for start in range(0, len(targets_N), step):
        yield targets_N[start : start + step], logits_NV[start : start + step]
