"""What a recipe may say about quantization. Light: imports nothing but pydantic.

The bounds say how far a file may lie from F16 before its step fails. They are a few times what llama.cpp's scoreboard
of Llama 3 8B shows for the type (tools/perplexity/README.md): models far smaller than that lose more.

Units: tokens, rows; divergence in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from raymill.evaluate.base_config import Config
from raymill.registry.placement_config import Resources

GgufType = Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K"]

QUANTIZATION_TYPES: tuple[GgufType, ...] = get_args(GgufType)
"""llama.cpp's file types that we make, the largest first."""

AdapterType = Literal["F32", "F16", "BF16", "Q8_0"]
ADAPTER_TYPES: tuple[AdapterType, ...] = get_args(AdapterType)
"""Of adapters by themselves."""


WITHOUT_IMPORTANCE: frozenset[GgufType] = frozenset({"F16", "BF16", "Q8_0"})
"""Types whose rounding takes no notice of an importance matrix."""


class Bounds(Config):
    """How far a file may lie from F16. None leaves a number out."""

    kl_mean: float | None = Field(default=None, gt=0)
    """Mean over tokens of the Kullback-Leibler divergence of its distribution from that of F16, at most."""

    kl_p99: float | None = Field(default=None, gt=0)
    """Of the tokens, 99 % have a divergence of at most this."""

    same_top: float | None = Field(default=None, ge=0, le=1)
    """Share of tokens with the same likeliest token as F16, at least."""

    perplexity_ratio: float | None = Field(default=None, gt=0)
    """Perplexity over that of F16, at most."""

    agreement: float | None = Field(default=None, ge=0, le=1)
    """Share of parity prompts with the same greedy answer as the model, at least."""


def bounds(kl_mean: float, kl_p99: float, same_top: float, ratio: float, agreement: float | None) -> Bounds:
    return Bounds(
        kl_mean=kl_mean, kl_p99=kl_p99, same_top=same_top, perplexity_ratio=ratio, agreement=agreement
    )


BOUNDS: dict[GgufType, Bounds] = {
    "F16": bounds(0.001, 0.01, 0.98, 1.01, 0.5),
    "BF16": bounds(0.01, 0.1, 0.93, 1.02, 0.1),
    "Q8_0": bounds(0.02, 0.2, 0.9, 1.03, 0.1),
    "Q6_K": bounds(0.05, 0.5, 0.86, 1.06, None),
    "Q5_K_M": bounds(0.1, 1.0, 0.82, 1.1, None),
    "Q4_K_M": bounds(0.25, 2.5, 0.72, 1.25, None),
    "IQ4_XS": bounds(0.3, 3.0, 0.7, 1.3, None),
    "Q3_K_M": bounds(0.7, 6.0, 0.5, 2.0, None),
    "Q2_K": bounds(2.5, 15.0, 0.25, 8.0, None),
}
"""What holds where a recipe says nothing else. docs/quantization.md has the same table."""


class TextFile(Config):
    """Where text comes from; None is the data set."""

    file: str | None = None
    """Plain text (documents parted by empty lines) or jsonl with rows in normal form."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file, in hex; None: the service fills it in. Another file than this is refused."""


class CalibrationConfig(TextFile):
    """What runs through a model so that rounding can take notice of it; the training rows where there is no `file`."""

    rows: int = Field(default=128, ge=1)
    """The first so many rows."""

    row_tokens: int = Field(default=512, ge=16)
    """Of a row; the rest is left out."""


class ImportanceConfig(CalibrationConfig):
    """The importance matrix: which columns of a weight matter, by the mean square of what they are multiplied with."""


def filled_in(given: Any, usual: Mapping[Any, Bounds]) -> Any:
    """Bounds by type: what a recipe leaves out of a type's is what holds otherwise."""
    if not isinstance(given, dict):
        return given
    return {
        kind: {**usual[kind].model_dump(), **own} if kind in usual and isinstance(own, dict) else own
        for kind, own in given.items()
    }


def listed(value: Any) -> Any:
    """A section that may be a bare list of its types."""
    return {"types": value} if isinstance(value, list | tuple) else value


def known_once(types: Any, known: Sequence[str], what: str, *, unknown: str, more: str = "") -> Any:
    """The types of a section, each one that is known, and named once.

    Args:
        what: is listed twice.
        unknown: what a name is that is not known.
        more: said after the names that are.
    """
    if not isinstance(types, list | tuple):
        return types
    for name in types:
        if name not in known:
            raise ValueError(f"{name!r} is {unknown}: use any of {', '.join(known)}{more}")
    if len(set(types)) < len(types):
        raise ValueError(f"{what} is listed twice in {', '.join(types)}: name each once")
    return types


class VerifyConfig(TextFile):
    """Perplexity of a file and its divergence from F16, on the held-out rows where there is no `file`."""

    tokens: int = Field(default=2048, ge=0)
    """Tokens that are predicted, at the most; 0: nothing is measured, a file is only loaded."""

    bounds: dict[GgufType, Bounds] = Field(default_factory=dict)
    """For a type, in place of some of the bounds that hold otherwise; null leaves a number out."""

    @field_validator("bounds", mode="before")
    @classmethod
    def fill_in(cls, given: Any) -> Any:
        return filled_in(given, BOUNDS)

    def bounds_of(self, kind: GgufType) -> Bounds:
        """What holds for a file of a type."""
        return self.bounds.get(kind, BOUNDS[kind])


class QuantizeConfig(Config):
    """Which GGUF files are made. A bare list of types is accepted too."""

    types: tuple[GgufType, ...] = Field(min_length=1)
    """Any of QUANTIZATION_TYPES, each once."""

    importance: ImportanceConfig | None = None
    """An importance matrix for the types that gain by it; `{}` takes the defaults. None: without."""

    parity_prompts: int = Field(default=50, ge=0)
    """Held-out prompts that are answered by Hugging Face and by each file; 0: no parity check."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Of a parity answer."""

    verify: VerifyConfig = Field(default_factory=VerifyConfig)
    """What a file must show before it is registered."""

    resources: Resources | None = None
    """Which GPUs the step holds, on one node: `{accelerator: L4}`. It waits in its queue until they are free. None: it
    runs beside the head, and holds none."""

    @model_validator(mode="before")
    @classmethod
    def accept_a_list(cls, value: Any) -> Any:
        return listed(value)

    @field_validator("types", mode="before")
    @classmethod
    def known_types_once(cls, types: Any) -> Any:
        return known_once(types, QUANTIZATION_TYPES, "a quantization type", unknown="no quantization type")
