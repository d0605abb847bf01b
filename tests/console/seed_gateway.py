"""A provider with its models and prices, a route over it, and a day of requests."""

from __future__ import annotations

import datetime as dt

from tests.console.provider import ANSWERS
from tests.registry.making import ADA, World
from tests.registry.using import usage

from raymill.registry import identity, prices, providers, routes
from raymill.serve.gateway.config import RouteConfig
from raymill.serve.gateway.money import Price

PROVIDER = "lab"
REQUESTS = 240


def seed(world: World, provider: str) -> dict[str, str]:
    with world.database.transaction() as session:
        made = providers.add(session, PROVIDER, ADA, preset="vllm", base_url=f"{provider}/v1")
        providers.record_check(session, made.id, ok=True, status=200, latency_ms=4.0)
        providers.sync_models(session, PROVIDER, ANSWERS, ADA)
        for number, model in enumerate(ANSWERS, start=1):
            price = Price(150_000 * number, 75_000 * number, 600_000 * number)
            prices.set_price(session, PROVIDER, model, price, ADA)
        targets = [
            {"provider": PROVIDER, "model": "large"},
            {"provider": PROVIDER, "model": "small", "order": 1},
        ]
        config = RouteConfig.model_validate({"targets": targets})
        routes.set_route(session, "support", config.model_dump(mode="json"), ADA)
        key, _ = identity.create_key(session, ADA.name, "laptop", ADA)
        now, models = dt.datetime.now(dt.UTC), list(ANSWERS)
        for number in range(REQUESTS):
            asked, said = 180 + 7 * number % 90, 40 + 11 * number % 60
            session.add(
                usage(
                    key,
                    at=now - dt.timedelta(minutes=5 * number),
                    provider=PROVIDER,
                    model=models[number % 5 // 2],
                    prompt_tokens=asked,
                    completion_tokens=said,
                    cost_micro_usd=(asked * 3 + said * 12) // 20,
                    latency_ms=600.0 + 13 * number % 250,
                )
            )
    return {"provider": f"{provider}/v1"}
