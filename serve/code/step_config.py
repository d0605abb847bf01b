"""How a step asks its model. Versions of it are kept by `registry/code_steps.py`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from raymill.registry.tables import JsonObject

PROMPTS: dict[str, str] = {
    "forensic": (
        "You are a security auditor. Find the weaknesses of the submitted code: what can go wrong, where, and by "
        "whose input. Judge each finding of the analysers as well. Name only what the lines show."
    ),
    "rebuild": (
        "You repair code. Remove the weaknesses that are listed, keep everything else as it is: behaviour, names, "
        "interfaces, style. Answer with every file in full."
    ),
    "quality": (
        "You review a repair. Say what was changed and why, judge for each finding whether it is resolved, and how "
        "confident one can be to run the repaired code in production, from 0 to 100."
    ),
}
"""Used where a version has none of its own."""

NOT_PARAMS = frozenset({"model", "messages", "stream", "n", "tools", "max_tokens"})
"""Fields of a request that are the question itself, or have a setting of their own."""


class StepConfig(BaseModel):
    """One version of a step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, max_length=200)
    """Any name that the gateway answers for: a route, a served version, provider/model."""

    fallback: str | None = Field(default=None, min_length=1, max_length=200)
    """Asked when `model` is away, refuses, or does not come to a usable answer."""

    prompt: str | None = Field(default=None, min_length=1, max_length=20_000)
    """Stands before our own words on data, form and schema."""

    params: JsonObject = Field(default_factory=dict)
    """More fields of the request, such as temperature and response_format."""

    max_tokens: int = Field(default=4096, ge=1, le=200_000)
    timeout_s: float = Field(default=120.0, gt=0, le=600)

    @field_validator("params")
    @classmethod
    def _are_parameters(cls, value: JsonObject) -> JsonObject:
        if wrong := sorted(NOT_PARAMS & value.keys()):
            raise ValueError(f"cannot hold {wrong[0]}: it is not a parameter of the step")
        return value

    @property
    def models(self) -> list[str]:
        """In the order in which they are asked."""
        return [self.model] if self.fallback is None else [self.model, self.fallback]
