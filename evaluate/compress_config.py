"""What a recipe may say about weights with fewer bits for vLLM. Light: imports nothing but pydantic.

The bounds are wider than those of GGUF types with as many bits: FP8 rounds activations too, and models far smaller than
those that the methods' authors measured lose more.

Units: tokens, rows; divergence in nats.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from raymill.evaluate.base_config import Config
from raymill.evaluate.quantize_config import (
    Bounds,
    CalibrationConfig,
    TextFile,
    bounds,
    filled_in,
    known_once,
    listed,
)

CompressedType = Literal["FP8", "AWQ", "GPTQ"]

COMPRESSED_TYPES: tuple[CompressedType, ...] = get_args(CompressedType)
"""Ways in which llm-compressor writes weights for vLLM."""

CALIBRATED: frozenset[CompressedType] = frozenset({"AWQ", "GPTQ"})
"""Types that look at what the weights are multiplied with."""

COMPRESSED_BOUNDS: dict[CompressedType, Bounds] = {
    "FP8": bounds(0.05, 0.5, 0.86, 1.06, None),
    "AWQ": bounds(0.3, 3.0, 0.7, 1.3, None),
    "GPTQ": bounds(0.3, 3.0, 0.7, 1.3, None),
}
"""What holds where a recipe says nothing else. docs/quantization.md has the same table."""


class CompressedVerifyConfig(TextFile):
    """Perplexity of the new weights and their divergence from the model's, on held-out rows where there is no `file`."""

    tokens: int = Field(default=2048, ge=1)
    """Tokens that are predicted, at the most."""

    bounds: dict[CompressedType, Bounds] = Field(default_factory=dict)
    """For a type, in place of some of the bounds that hold otherwise; null leaves a number out."""

    @field_validator("bounds", mode="before")
    @classmethod
    def fill_in(cls, given: Any) -> Any:
        return filled_in(given, COMPRESSED_BOUNDS)

    def bounds_of(self, kind: CompressedType) -> Bounds:
        """What holds for weights of a type."""
        return self.bounds.get(kind, COMPRESSED_BOUNDS[kind])


class CompressConfig(Config):
    """Which weights are made for vLLM. A bare list of types is accepted too."""

    types: tuple[CompressedType, ...] = Field(min_length=1)
    """Any of COMPRESSED_TYPES, each once."""

    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig)
    verify: CompressedVerifyConfig = Field(default_factory=CompressedVerifyConfig)
    """What the weights must show before they are registered."""

    gpus: int = Field(default=0, ge=0, le=1)
    """GPUs of the process that makes and measures them; 0 works on the CPU, which is slow for AWQ and GPTQ."""

    @model_validator(mode="before")
    @classmethod
    def accept_a_list(cls, value: Any) -> Any:
        return listed(value)

    @field_validator("types", mode="before")
    @classmethod
    def known_types_once(cls, types: Any) -> Any:
        return known_once(
            types,
            COMPRESSED_TYPES,
            "a type",
            unknown="nothing that weights are compressed to",
            more="; GGUF types stand under quantize",
        )
