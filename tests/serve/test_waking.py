"""A version without a replica: whoever asks waits, then is told when to come again; nobody takes it for broken."""

from __future__ import annotations

import httpx
import pytest
from tests.serve.gateway_tools import ADA, KEY, ScriptedEngine, made

from raymill.serve.gateway.catalog import Route, Served, Target, served_target
from raymill.serve.gateway.config import OURS, RouteConfig
from raymill.serve.gateway.config import Target as Wanted
from raymill.serve.gateway.snapshot import Snapshot, StaticSource, digest_of

CHAT = "/v1/chat/completions"
IDLE = Served(name="triage", version=1, application="llm-triage-1", aliases=("production",), wake_s=0.2)
OTHER = Served(name="triage", version=2, application="llm-triage-2", aliases=("sandbox",))


def either() -> Route:
    targets = (served_target(IDLE.exact_name, IDLE), Target(model="triage@2", served=OTHER, order=1))
    wanted = tuple(Wanted(provider=OURS, model=each.model, order=each.order) for each in targets)
    return Route(name="either", targets=targets, config=RouteConfig(targets=wanted))


@pytest.mark.parametrize("stream", [False, True])
def test_an_idle_version_is_waited_for_and_is_never_taken_for_broken(stream: bool) -> None:
    engine = ScriptedEngine()
    engine.asleep.add(1)
    source = StaticSource(Snapshot.of({digest_of(KEY): ADA}, [IDLE, OTHER], routes=[either()]))
    with (
        made(engine, source) as (_, address),
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client,
    ):

        def ask(model: str) -> httpx.Response:
            said = [{"role": "user", "content": "Hello."}]
            return client.post(CHAT, json={"model": model, "stream": stream, "messages": said})

        for _ in range(12):  # more than a breaker would stand
            refused = ask("triage")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            assert refused.json()["error"]["code"] == "engine_waking"
        assert not engine.seen
        assert ask("either").headers["x-raymill-target"].endswith("triage@2")
        engine.asleep.clear()
        assert ask("triage").status_code == 200
        assert ask("either").headers["x-raymill-target"].endswith("triage@1")
