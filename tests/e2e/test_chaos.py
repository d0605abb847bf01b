"""Ten rounds of chaos on the shared service: nothing acknowledged is lost, nothing is done twice (P1 to P5)."""

from __future__ import annotations

import time
import urllib.request

import pytest
from tests.conftest import RunningService

from raymill.cluster.chaos import Chaos, table
from raymill.cluster.settings import Settings


@pytest.mark.timeout(900)
def test_ten_rounds_lose_nothing_and_double_nothing(service: RunningService) -> None:
    report = Chaos(Settings(), rounds=10, seed=1, jobs=100).run()
    told = table(report)
    assert report.good, told
    assert report.jobs == 100
    assert sum(report.kills.values()) >= 5
    until_ready(service)


def until_ready(service: RunningService) -> None:
    """What was done to the service is over before the next test meets it."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{service.url}/readyz", timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
