"""The ways to tune, and the settings that belong to one of them. Light: imports nothing but pydantic.

What a method needs of its data is a shape (see `formats.py`); what it computes lies in `objectives.py`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raymill.train.run_config import Config

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Method = Literal["pretrain", "sft", "tool", "dpo", "kto"]

NEEDED_SHAPE: dict[Method, str] = {
    "pretrain": "text",
    "sft": "conversation",
    "tool": "conversation",
    "dpo": "preference",
    "kto": "kto",
}
"""The shape of the rows that a method learns from."""

COMPARING = ("dpo", "kto")
"""Methods that compare the model with the one it started from."""

DpoLoss = Literal[
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
]
SMOOTHED: tuple[DpoLoss, ...] = ("robust", "exo_pair", "aot", "aot_unpaired")
"""Losses in which `label_smoothing` counts."""

OF_THE_MARGIN: tuple[DpoLoss, ...] = (
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "exo_pair",
    "robust",
    "discopop",
)
"""Losses of the difference between the two answers alone; only there another divergence is defined."""


class LoraConfig(Config):
    """Low-rank adapters: the base stays as it is, and small matrices beside it learn."""

    r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""

    alpha: int = Field(default=0, ge=0)
    """The adapters' output is scaled by alpha / r (`rslora`: by alpha / sqrt(r)); 0 means twice r."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""

    targets: tuple[str, ...] = LINEAR_LAYERS
    """Names of the layers that get an adapter."""

    dora: bool = False
    """Learn lengths and directions of the weights apart (DoRA, arXiv 2402.09353); slower, better at a low rank."""

    rslora: bool = False
    """Scale by alpha / sqrt(r), so that a high rank learns as well (rank-stabilized LoRA, arXiv 2312.03732)."""

    quantize: Literal["nf4"] | None = None
    """Keep the base in 4 bits while the adapters learn (QLoRA, arXiv 2305.14314). Needs a GPU."""

    @model_validator(mode="before")
    @classmethod
    def derive(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("r", 16), int):
            return {**data, "alpha": data.get("alpha") or 2 * data.get("r", 16)}
        return data

    @model_validator(mode="after")
    def check(self) -> Self:
        if not self.targets:
            raise ValueError("lora.targets is empty: name a layer, such as q_proj, or leave targets out")
        return self


class DpoConfig(Config):
    """Direct preference optimization (arXiv 2305.18290) and its kin: the better answer against the worse."""

    beta: float = Field(default=0.1, gt=0)
    """How strongly the model is held to the one it started from; the target margin's scale for `ipo`."""

    loss: dict[DpoLoss, float] = Field(default={"sigmoid": 1.0}, min_length=1)
    """One loss by name, or several with a weight each, such as {sigmoid: 0.8, bco_pair: 0.2}."""

    divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """What holds the model to the one it started from (f-DPO, arXiv 2309.16240)."""

    divergence_alpha: float = 0.5
    """The alpha of `alpha_divergence`."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the pairs that are taken to be the wrong way round; for robust, exo_pair and aot."""

    discopop_tau: float = Field(default=0.05, gt=0)
    """Temperature of `discopop`."""

    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the better answer's mean loss a token, added to the preference loss (RPO, arXiv 2404.19733)."""

    @model_validator(mode="before")
    @classmethod
    def derive(cls, data: Any) -> Any:
        """One name stands for itself with weight 1."""
        if isinstance(data, dict) and isinstance(data.get("loss"), str):
            return {**data, "loss": {data["loss"]: 1.0}}
        return data

    @model_validator(mode="after")
    def check(self) -> Self:
        if "exo_pair" in self.loss and self.label_smoothing == 0:
            raise ValueError("dpo.loss exo_pair needs dpo.label_smoothing above 0: its paper takes 0.001")
        if self.label_smoothing > 0 and not set(self.loss) & set(SMOOTHED):
            raise ValueError(
                f"dpo.label_smoothing is {self.label_smoothing:g}, which {' and '.join(self.loss)} does not know: "
                f"leave it out, or use {', '.join(SMOOTHED)}"
            )
        other = [name for name in self.loss if name not in OF_THE_MARGIN]
        if self.divergence != "reverse_kl" and other:
            raise ValueError(
                f"dpo.divergence is {self.divergence}, which {other[0]} has no form for: use reverse_kl, or a loss "
                f"among {', '.join(OF_THE_MARGIN)}"
            )
        return self


class KtoConfig(Config):
    """Kahneman-Tversky optimization (arXiv 2402.01306): answers that are good or bad, without pairs."""

    beta: float = Field(default=0.1, gt=0)
    """How strongly the model is held to the one it started from."""

    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """`apo_zero_unpaired` (arXiv 2408.06266) does without the estimate of how far the model has moved."""

    desirable_weight: float = Field(default=1.0, ge=0)
    """Weight of good answers; with few of them, raise it to (bad answers) / (good answers)."""

    undesirable_weight: float = Field(default=1.0, ge=0)
    """Weight of bad answers."""


def misfit_of(method: Method, shape: str) -> str | None:
    """Why `method` cannot learn from rows of `shape`, with the cure; None when it can."""
    needed = NEEDED_SHAPE[method]
    if shape == needed:
        return None
    others = " or ".join(other for other, its in NEEDED_SHAPE.items() if its == shape)
    cure = f"set method to {others}, or give another data set" if others else "give another data set"
    return f"method is {method}, which learns from {needed} rows, and the data set has {shape} rows: {cure}"
