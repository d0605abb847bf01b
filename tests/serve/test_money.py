"""What tokens cost, in whole micro-dollars."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raymill.serve.gateway.money import Price, bound, cost
from raymill.serve.gateway.wires.usage import Tokens

GPT = Price(input=2_500_000, cached_input=1_250_000, output=10_000_000)
AMOUNT = st.integers(0, 10**9)


def test_a_cost_is_the_sum_of_its_parts_rounded_up_once() -> None:
    assert cost(GPT, Tokens(prompt=1000, cached=0, completion=100)) == 3500
    assert cost(GPT, Tokens(prompt=1000, cached=400, completion=100)) == 3000
    assert cost(GPT, Tokens(prompt=1, cached=0, completion=0)) == 3
    assert cost(Price(1, 1, 1), Tokens(prompt=3, cached=1, completion=2)) == 1


def test_what_is_free_costs_nothing() -> None:
    assert cost(Price(0, 0, 0), Tokens(prompt=10**9, cached=7, completion=10**9)) == 0


@given(price=st.tuples(AMOUNT, AMOUNT, AMOUNT), prompt=AMOUNT, cached=AMOUNT, output=AMOUNT, more=AMOUNT)
def test_no_request_costs_more_than_its_bound(
    price: tuple[int, int, int], prompt: int, cached: int, output: int, more: int
) -> None:
    tokens = Tokens(prompt, min(cached, prompt), output)
    assert cost(Price(*price), tokens) <= bound(Price(*price), prompt + more, output + more)
