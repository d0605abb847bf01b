"""What the tests of code analysis share: a client, steps whose model is scripted, and the engine's way of running jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from fastapi.testclient import TestClient
from tests.registry.making import World
from tests.serve.dataset_lab import connected, run_all
from tests.serve.scripted_upstream import Act, Script, Seen, Writer, answer, http, scripted, send

from raymill.registry.tables import Role
from raymill.serve.code.asking import CONNECTIONS
from raymill.serve.code.faults import FAULTS

CODE = "/code/v1"
WEAK = "import os\n\n\ndef f(x):\n    os.system('ls ' + x)\n    return x\n"
SAFE = "import subprocess\n\n\ndef f(x):\n    subprocess.run(['ls', x], check=True)\n    return x\n"
STEPS = {"List the findings": "forensic", "Write every file": "rebuild", "Compare the original": "quality"}
DATA = re.compile(r"<(data-[0-9a-f]{16})>\n(.*)\n</\1>", re.DOTALL)

Table = dict[str, Any]
"""Step -> what the model answers: text, or something that becomes JSON."""

GOOD: Table = {
    "forensic": {
        "summary": "A shell is asked.",
        "findings": [
            {
                "file": "code.py",
                "title": "Shell",
                "cwe": "CWE-78",
                "severity": "high",
                "line_start": 5,
                "line_end": 5,
                "confidence": "high",
            },
            {"file": "code.py", "title": "No types", "severity": "low", "line_start": 4, "line_end": 4},
            {"file": "none.py", "title": "Not there", "severity": "low", "line_start": 1, "line_end": 1},
        ],
    },
    "rebuild": {"files": [{"name": "code.py", "text": SAFE}]},
    "quality": {
        "changes": [{"what": "a list of arguments", "why": "no shell"}],
        "findings": [],
        "confidence": 95,
        "reason": "small",
    },
}


def step_of(seen: Seen) -> str:
    """Which step asks."""
    asked = str(seen.body["messages"][1]["content"])
    return next(step for words, step in STEPS.items() if words in DATA.sub("", asked))


def data_of(seen: Seen) -> str:
    """The delimited block of a question."""
    found = DATA.search(str(seen.body["messages"][1]["content"]))
    assert found is not None
    return found[2]


def outside(seen: Seen) -> str:
    """All that a question says outside the block."""
    return "\n".join(DATA.sub("", str(message["content"])) for message in seen.body["messages"])


def table(answers: Table) -> Act:
    """A model that answers by the table."""

    async def act(seen: Seen, writer: Writer) -> None:
        said = answers[step_of(seen)]
        await send(writer, http(200, answer(said if isinstance(said, str) else json.dumps(said))))

    return act


def raw(body: bytes, status: int = 200) -> Act:
    async def act(_: Seen, writer: Writer) -> None:
        await send(writer, http(status, body))

    return act


class Lab(NamedTuple):
    client: TestClient
    upstream: Script
    world: World

    def configure(self, **more: Any) -> None:
        for step in STEPS.values():
            made = self.client.put(f"{CODE}/steps/{step}", json={"model": "m", **more})
            assert made.status_code == 200, made.text

    def submit(self, key: str | None = None, **body: Any) -> dict[str, Any]:
        headers = {"idempotency-key": key} if key else {}
        made = self.client.post(f"{CODE}/submissions", json=body or {"code": WEAK}, headers=headers)
        assert made.status_code == 202, made.text
        return dict(made.json())

    def show(self, submission_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"{CODE}/submissions/{submission_id}").raise_for_status().json())

    def run(self, **body: Any) -> dict[str, Any]:
        """Submit, let all steps end, show."""
        made = self.submit(**body)
        run_all(self.world)
        return self.show(made["id"])

    def answers(self, submission_id: str) -> list[dict[str, Any]]:
        found = self.client.get(f"{CODE}/submissions/{submission_id}/answers").raise_for_status()
        return list(found.json()["data"])


@contextmanager
def laboratory(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    with scripted() as upstream, connected(world, Role.OPERATOR) as client:
        monkeypatch.setenv("RAYMILL_CODE_GATEWAY_URL", upstream.url)
        upstream.on("m", table(GOOD))
        lab = Lab(client, upstream, world)
        lab.configure()
        yield lab
        CONNECTIONS.close()
        FAULTS.forget()
