"""Requests made from the OpenAPI document: whatever is sent, the control plane answers, and never with a 5xx."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from tests.serve.control_app import app_of

from raymill.cluster.settings import Settings
from raymill.registry import identity
from raymill.registry.database import Database
from raymill.registry.signing_keys import KeyRing
from raymill.serve.api.context import Parts

EXAMPLES = 8
"""Requests of each operation."""

NOT_HERE = ("/readyz", "/api/v1/master-keys/rotate", "/api/v1/events")
"""One asks Ray Serve, which would be started for it; one makes key files without end; one is a stream that does not end."""


@pytest.fixture
def api(database: Database, tmp_path: Path) -> tuple[Any, str]:
    """The application and an administrator's key."""
    service = Settings(home=tmp_path)
    service.secret_box.create_if_missing()
    KeyRing(service.signing_dir).create_if_missing()
    key = identity.KEY_PREFIX + secrets.token_urlsafe(32)
    with database.transaction() as session:
        identity.ensure_admin(session, key)
    return app_of(Parts(settings=service, database=database)), key


# Hypothesis watches Python's common random numbers, which other threads of this process draw from as well.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.timeout(300)
def test_no_request_made_from_the_document_is_answered_with_a_5xx(api: tuple[Any, str]) -> None:
    app, key = api
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
    faults: list[str] = []
    asked = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if operation.path in NOT_HERE or operation.path.endswith("/events"):
            continue

        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            nonlocal asked
            response = case.call(headers={"Authorization": f"Bearer {key}"})
            asked += 1
            if response.status_code >= 500:
                faults.append(f"{case.method} {case.path}: {response.status_code} {response.text[:300]}")

        ask()
    assert faults == []
    assert asked > 300
