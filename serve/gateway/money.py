"""What tokens cost. Integers only: micro-dollars (1 USD = 1,000,000), prices per 1,000,000 tokens.

Knows no providers and no budgets. A cost is rounded up once for each request.
"""

from __future__ import annotations

from raymill.registry.prices import Price
from raymill.serve.gateway.wires.usage import Tokens

__all__ = ["Price", "bound", "cost"]

PER_TOKENS = 1_000_000


def cost(price: Price, tokens: Tokens) -> int:
    """What a request cost, in micro-dollars."""
    uncached = tokens.prompt - tokens.cached
    return _rounded_up(
        uncached * price.input + tokens.cached * price.cached_input + tokens.completion * price.output
    )


def bound(price: Price, prompt_bound: int, output_bound: int) -> int:
    """The most that a request of at most so many tokens can cost, whatever of its prompt was cached."""
    return _rounded_up(prompt_bound * max(price.input, price.cached_input) + output_bound * price.output)


def _rounded_up(millionths: int) -> int:
    return -(-millionths // PER_TOKENS)
