"""The most that a request can cost, for budgets that are never overspent: what is reserved is also asked for.

A limit of another wire, or one that is no count, would be reserved by and then ignored by the upstream: it is
taken out. Where nobody knows how long an answer can get, a limit is put in. Only for callers with a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from raymill.serve.gateway.catalog import Target
from raymill.serve.gateway.money import bound
from raymill.serve.gateway.wire import Ask, Operation, Refused
from raymill.serve.gateway.wires.usage import output_tokens_bound, prompt_tokens_bound

UNKNOWN_OUTPUT_TOKENS = 4096
"""An answer's length where neither the request nor the price table says."""

OWN_LIMITS: dict[Operation, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
    "embeddings": (),
}
"""What each wire calls the longest answer; the first one is put in."""

ALL_LIMITS = frozenset(name for names in OWN_LIMITS.values() for name in names)
UNBOUNDED = ("previous_response_id", "conversation", "prompt")
"""Of the Responses wire: they bring a prompt that is not in the request."""


class Bound(NamedTuple):
    targets: Sequence[Target]
    """Those whose price is known."""

    micro_usd: int
    output_tokens: int


def bound_of(ask: Ask, targets: Sequence[Target]) -> Bound:
    """The most that any of the targets with a price can ask for. May change the request's limits.

    Raises:
        Refused: 403, no price is known; 400, the prompt is not in the request.
    """
    priced = [target for target in targets if target.price is not None]
    if not priced:
        names = ", ".join(target.id for target in targets)
        raise Refused(
            403,
            "price_missing",
            f"no price is known for {names}, and a budget cannot be kept without: "
            "an administrator sets one with `raymill price set`",
        )
    if ask.operation == "responses":
        for name in UNBOUNDED:
            if ask.body.get(name) is not None:
                raise Refused(
                    400,
                    "unbounded_prompt",
                    f"{name} brings a prompt whose length nobody knows, and this key has a budget: send the whole input",
                    param=name,
                )
    longest = [target.price.max_output_tokens for target in priced if target.price is not None]
    keep_to_one_limit(ask, needed=None in longest)
    prompt = prompt_tokens_bound(ask.body)
    most = output = 0
    for target in priced:
        assert target.price is not None
        if ask.operation != "embeddings":
            answer = output_tokens_bound(ask.body, target.price.max_output_tokens or UNKNOWN_OUTPUT_TOKENS)
            output = max(output, answer)
        most = max(most, bound(target.price, prompt, output))
    return Bound(priced, most, output)


def keep_to_one_limit(ask: Ask, *, needed: bool) -> None:
    """Leave only limits that the upstream keeps to.

    Args:
        needed: put one in where there is none.
    """
    own = OWN_LIMITS[ask.operation]
    body: dict[str, Any] = ask.body
    for name in ALL_LIMITS.difference(own):
        body.pop(name, None)
    if any(type(body.get(name)) is int and body[name] > 0 for name in own):
        return
    for name in own:
        body.pop(name, None)
    if needed and own:
        body[own[0]] = UNKNOWN_OUTPUT_TOKENS
