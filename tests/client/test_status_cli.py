"""`raymill status`: one screen, JSON, and again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]
    Command = Callable[..., subprocess.CompletedProcess[str]]

QUEUE = {
    "queue": "short",
    "runner": "short",
    "max_running": 4,
    "paused_at": None,
    "ready": 2,
    "scheduled": 1,
    "waiting": 1,
    "running": 3,
    "paused": 0,
    "failed_last_day": 0,
    "dead": 1,
    "oldest_ready_s": 75.0,
    "finished_last_hour": 9,
    "start_p50_s": 0.01,
    "start_p99_s": 0.25,
}
STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "at": "2026-01-02T03:04:05Z",
    "nodes": [
        {
            "node_id": "abcdef0123456789",
            "alive": True,
            "resources": {"CPU": 4.0, "memory": float(8 << 30)},
            "available": {"CPU": 3.0, "memory": float(2 << 30)},
        },
        {"node_id": "fedcba", "alive": False, "resources": {}, "available": {}},
    ],
    "jobs": {"queued": 4, "running": 3, "dead": 1},
    "deployments": [],
    "database": "18.4",
    "queues": [QUEUE],
    "canaries": [
        {
            "llm": "triage",
            "alias": "production",
            "version": 3,
            "state": "running",
            "share": 0.1,
            "age_s": 90.0,
        }
    ],
    "gateway": {"replicas": 1, "in_flight": 2, "breakers": {"openai/gpt": "open"}},
    "parts": {"gateway": 1, "engine": 1},
    "alerts": [
        {
            "severity": "warning",
            "name": "dead_letters",
            "subject": "short",
            "message": "1 dead letters lie in queue short",
            "cure": "`raymill jobs redrive`",
        }
    ],
}


def test_status_is_one_screen_with_what_is_wrong_and_its_cure(
    raymill: Command, service: Service, reply: Replies
) -> None:
    service.on("GET", "/api/v1/status", reply(data=STATUS))
    shown = raymill("status").stdout
    assert shown.splitlines()[0] == f"Raymill 1.2.3 at {service.url}, Postgres 18.4"
    assert "Processes: 1 engine, 1 gateway; the gateway is answering 2 requests" in shown
    assert "warning  dead_letters      1 dead letters lie in queue short -> `raymill jobs redrive`" in shown
    assert "abcdef012345  3 of 4    -         2 of 8 GiB\n1 gone" in shown
    assert "short  3/4      2      1:15    2      1     250 ms" in shown
    assert "triage     production  3        running  10%    1:30" in shown
    assert json.loads(raymill("status", "--json").stdout)["alerts"] == STATUS["alerts"]


def test_watching_goes_on_while_the_service_is_away(home: Path, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/status", reply(data=STATUS), reply(status=404, data={}), reply(data=STATUS))
    command = [
        sys.executable,
        "-m",
        "raymill.client.cli.main",
        "status",
        "--watch",
        "--every",
        "0.5",
        "--json",
    ]
    ours = {"RAYMILL_URL": service.url, "RAYMILL_API_KEY": "rk-test", "RAYMILL_HOME": str(home)}
    with subprocess.Popen(command, env={**os.environ, **ours}, stdout=-1, stderr=-1, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert json.loads(watching.stdout.readline()) == json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
        assert watching.stderr.read().startswith("error: ")
