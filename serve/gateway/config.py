"""What a route may say: which targets answer for a model name, and how hard to try. Light: pydantic alone.

Times are seconds. Tokens are estimated before a request is sent: one for each four bytes of its text.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

OURS = "raymill"
"""Provider name of the versions that this service serves itself."""

Strategy = Literal["weighted", "least_latency", "least_busy"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class When(Section):
    """Which requests a target takes. A condition that is left out is always met."""

    min_prompt_tokens: int | None = Field(default=None, ge=0)
    max_prompt_tokens: int | None = Field(default=None, ge=0)
    tools: bool | None = None
    """Only requests with (true) or without (false) tools."""

    vision: bool | None = None
    """Only requests with (true) or without (false) an image."""

    stream: bool | None = None
    """Only streamed (true) or plain (false) requests."""


class Target(Section):
    provider: str
    """Name of a provider; `raymill` for a version that this service serves."""

    model: str
    """The model as that provider calls it; for `raymill` a served name, such as support-triage@production."""

    weight: int = Field(default=1, ge=0)
    """Share of the requests among the targets of the same order. 0 takes none but as a fallback."""

    order: int = Field(default=0, ge=0)
    """Targets of a higher order are asked when all of the lower ones have failed."""

    when: When = When()


class Timeouts(Section):
    connect_s: float = Field(default=5.0, gt=0)
    first_token_s: float = Field(default=60.0, gt=0)
    """From the request to the first byte of the answer."""

    idle_s: float = Field(default=30.0, gt=0)
    """Between two pieces of a stream."""

    total_s: float = Field(default=600.0, gt=0)


class Retries(Section):
    """Tries at one target before the next is asked: on 408, 429, 5xx, a reset or a timeout."""

    attempts: int = Field(default=2, ge=1, le=10)
    base_s: float = Field(default=0.25, ge=0)
    """The wait before try n is random, 0 to base * 2^n (full jitter), or what Retry-After says."""

    cap_s: float = Field(default=4.0, ge=0)
    """Longest wait. A longer Retry-After means: ask the next target instead."""


class Breaker(Section):
    """A target that fails too often is left alone for a while, then tried with one request."""

    window: int = Field(default=20, ge=2, le=1000)
    """Requests that are looked back on."""

    min_requests: int = Field(default=5, ge=1)
    error_rate: float = Field(default=0.5, gt=0, le=1)
    open_s: float = Field(default=10.0, gt=0)


class RouteConfig(Section):
    targets: tuple[Target, ...] = Field(min_length=1)
    strategy: Strategy = "weighted"
    """How one of the targets of the same order is chosen."""

    sticky: Literal["user", "conversation"] | None = None
    """The same user, or conversation, always meets the same target while it works (weighted only)."""

    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    cache_ttl_s: float | None = Field(default=None, gt=0, le=30 * 86_400)
    """Keep answers and give them to requests that are exactly the same. Off when left out."""

    keep_traces: bool = False
    """Keep prompts and answers, personal data masked."""

    @model_validator(mode="after")
    def _some_target_takes_requests(self) -> Self:
        lowest = min(target.order for target in self.targets)
        if not any(target.weight for target in self.targets if target.order == lowest):
            raise ValueError(f"no target of order {lowest} has a weight: give one at least 1")
        names = [(target.provider, target.model, target.order) for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError("a target stands twice in the same order: join them and add their weights")
        return self
