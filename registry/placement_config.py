"""How a recipe asks for accelerators, by the names that Ray has for them. Light: imports nothing but pydantic.

Ray gives each node with GPUs a resource `accelerator_type:NAME`, of which whatever must run there takes a thousandth.
"""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ConfigDict, Field, field_validator

ANY = "any"
"""Whichever there are; among counts, the sum of all types."""

PREFIX = "accelerator_type:"
PIN = 0.001

NAMES = (
    "V100", "P100", "T4", "P4", "K80", "A10G", "L4", "L40S", "A100", "A100-40G", "A100-80G", "H100", "H200", "H20",
    "B200", "B300", "GB200", "GB300", "RTX-PRO-6000", "Intel-GPU-Max-1550", "Intel-GPU-Max-1100", "Intel-GAUDI",
    "AMD-Instinct-MI100", "AMD-Instinct-MI250X", "AMD-Instinct-MI250X-MI250", "AMD-Instinct-MI210",
    "AMD-Instinct-MI300A", "AMD-Instinct-MI300X-OAM", "AMD-Instinct-MI300X-HF", "AMD-Instinct-MI308X",
    "AMD-Instinct-MI325X-OAM", "AMD-Instinct-MI350X-OAM", "AMD-Instinct-MI355X-OAM",
)  # fmt: skip
"""Those of Ray 2.60 that count as GPUs there."""


class Resources(BaseModel):
    """Which accelerators a section's work asks for. It waits in its queue until so many are free."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    accelerator: str = ANY
    """Type of GPU, such as H100, by Ray's name for it; any: whichever there are."""

    gpus: int = Field(default=1, ge=1, le=16_384)
    """How many, in all."""

    @field_validator("accelerator")
    @classmethod
    def known(cls, name: str) -> str:
        if name in (ANY, *NAMES):
            return name
        folded = {known.casefold(): known for known in NAMES}
        close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
        meant = ", ".join(folded[each] for each in close) or "H100, A100 or L4"
        raise ValueError(
            f"accelerator {name!r} is none that Ray knows: did you mean {meant}? `any` takes all"
        )


def pin(resources: Resources | None) -> dict[str, float]:
    """Ray's custom resource that leads to nodes with that accelerator; nothing where any will do."""
    if resources is None or resources.accelerator == ANY:
        return {}
    return {f"{PREFIX}{resources.accelerator}": PIN}
