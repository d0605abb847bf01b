"""In which order a route's targets are asked: conditions, order, then the route's strategy.

Pure but for the dice. Sticky choices use rendezvous hashing (Thaler and Ravishankar 1998) weighted as in
Schindelhauer and Schomaker 2005: when a target joins or leaves, only its own share of callers moves.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from raymill.serve.gateway.catalog import Route, Target
from raymill.serve.gateway.config import When
from raymill.serve.gateway.health import HealthBook
from raymill.serve.gateway.wires.usage import IMAGES


@dataclass(frozen=True, slots=True)
class Traits:
    """What conditions look at."""

    prompt_tokens: int
    """Estimated."""

    tools: bool
    vision: bool
    stream: bool


def order(
    route: Route,
    health: HealthBook,
    traits: Callable[[], Traits],
    sticky_key: Callable[[], str],
) -> Sequence[Target]:
    """The targets that take this request, first choice first.

    Args:
        traits, sticky_key: called only when the route looks at them.
    """
    targets = route.targets
    if len(targets) == 1 and targets[0].when == ALWAYS:
        return targets
    if any(target.when != ALWAYS for target in targets):
        found = traits()
        targets = tuple(target for target in targets if meets(target.when, found))
    ordered: list[Target] = []
    for level in sorted({target.order for target in targets}):
        group = [target for target in targets if target.order == level]
        ordered += _within(group, route, health, sticky_key) if len(group) > 1 else group
    return ordered


ALWAYS = When()
EXPLORE = 0.05
"""Share of the requests of a least-latency route that go to any of its targets."""


def meets(when: When, traits: Traits) -> bool:
    return (
        (when.min_prompt_tokens is None or traits.prompt_tokens >= when.min_prompt_tokens)
        and (when.max_prompt_tokens is None or traits.prompt_tokens <= when.max_prompt_tokens)
        and (when.tools is None or when.tools == traits.tools)
        and (when.vision is None or when.vision == traits.vision)
        and (when.stream is None or when.stream == traits.stream)
    )


def _within(
    group: list[Target], route: Route, health: HealthBook, sticky_key: Callable[[], str]
) -> list[Target]:
    strategy = route.config.strategy
    if strategy == "weighted":
        if route.config.sticky is not None:
            key = sticky_key()
            return sorted(group, key=lambda target: _score(target, _uniform(target.id, key)))
        return sorted(group, key=lambda target: _score(target, random.random()))
    weighty = [target for target in group if target.weight]
    spare = [target for target in group if not target.weight]
    if strategy == "least_latency":
        # One that was never asked has latency 0, so it is asked first; and now and then another than the fastest,
        # or nobody would notice that it is slow no more.
        weighty.sort(key=lambda target: (health.of(target).latency_ms, random.random()))
        if random.random() < EXPLORE:
            random.shuffle(weighty)
    elif strategy == "least_busy":
        weighty.sort(key=lambda target: (health.of(target).in_flight / target.weight, random.random()))
    else:
        assert_never(strategy)
    return weighty + spare


def _score(target: Target, uniform: float) -> float:
    """Exponential variates: the smallest is that of a target with probability weight / sum of weights."""
    return -math.log(max(uniform, 1e-300)) / target.weight if target.weight else math.inf


def _uniform(target_id: str, key: str) -> float:
    digest = hashlib.blake2b(f"{target_id}\0{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 1) / (1 << 64)


def traits_of(body: dict[str, Any], prompt_tokens: int) -> Traits:
    """Read from the OpenAI or the Anthropic wire alike: both say tools, stream, and image in a part's type."""
    return Traits(
        prompt_tokens=prompt_tokens,
        tools=bool(body.get("tools") or body.get("functions")),
        vision=_has_image(body.get("messages") or body.get("input")),
        stream=bool(body.get("stream")),
    )


def _has_image(messages: object) -> bool:
    if not isinstance(messages, list):
        return False
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            for part in content:
                kind = part.get("type") if isinstance(part, dict) else None
                if isinstance(kind, str) and kind in IMAGES:
                    return True
    return False


def conversation_of(body: dict[str, Any]) -> str:
    """What stays the same while a conversation grows: its own id, else all up to the first user's message."""
    metadata = body.get("metadata")
    if isinstance(metadata, dict) and metadata.get("conversation_id"):
        return str(metadata["conversation_id"])
    messages = body.get("messages") or body.get("input") or body.get("prompt")
    opening = messages
    if isinstance(messages, list):
        turns = [isinstance(each, dict) and each.get("role") == "user" for each in messages]
        opening = messages[: turns.index(True) + 1] if True in turns else messages[:1]
    return hashlib.blake2b(repr(opening).encode(), digest_size=16).hexdigest()
