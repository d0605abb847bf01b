"""A WebSocket through HAProxy and Ray Serve to the control plane."""

from __future__ import annotations

import json

import pytest
from tests.conftest import RunningService
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

pytestmark = [pytest.mark.usefixtures("service"), pytest.mark.timeout(300)]


def test_a_websocket_passes_through_the_proxy(service: RunningService) -> None:
    url = service.url.replace("http://", "ws://") + "/api/v1/ws"
    with connect(url, additional_headers={"authorization": f"Bearer {service.api_key}"}) as connected:
        assert json.loads(connected.recv(timeout=30)) == {"type": "ready"}
        connected.send('{"type": "ping"}')
        assert json.loads(connected.recv(timeout=30)) == {"type": "pong"}
        connected.send('{"type": "subscribe", "queues": true}')
        for _ in range(3):  # it is told again and again
            told = json.loads(connected.recv(timeout=30))
            assert {each["queue"] for each in told["data"]} >= {"heavy", "short"}


def test_a_browser_without_a_key_is_refused_through_the_proxy(service: RunningService) -> None:
    url = service.url.replace("http://", "ws://") + "/api/v1/ws"
    with connect(url) as connected:
        connected.send('{"type": "auth", "key": "rm-wrong"}')
        assert json.loads(connected.recv(timeout=30))["code"] == "unauthenticated"
        with pytest.raises(ConnectionClosed) as closed:
            connected.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
