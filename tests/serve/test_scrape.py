"""The numbers of several replicas as one scrape."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raymill.serve.gateway.metrics import Metrics
from raymill.serve.operating.scrape import STALE_S, joined, living, not_ready


def write(directory: Path, replica: str, ready: bool = True, route: str = "r") -> None:
    metrics = Metrics(replica)
    metrics.refused("invalid_api_key", 401)
    metrics.cache(route, hit=True)
    text = metrics.text({f"up/{replica}": "open"}, 7, 1, None if ready else "it is full")
    (directory / f"gateway-{replica}.prom").write_bytes(text.encode())


def test_replicas_become_one_exposition(tmp_path: Path) -> None:
    write(tmp_path, "one")
    write(tmp_path, "two")
    text = joined(living(tmp_path))
    assert text.count("# TYPE raymill_gateway_refused_total counter") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    refused = families["raymill_gateway_refused"].samples
    counted = [sample for sample in refused if sample.name.endswith("_total")]
    assert {(sample.labels["replica"], sample.value) for sample in counted} == {("one", 1.0), ("two", 1.0)}
    breakers = families["raymill_gateway_breaker"].samples
    assert {(sample.labels["target"], sample.value) for sample in breakers} == {
        ("up/one", 2.0),
        ("up/two", 2.0),
    }


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_name_that_holds_a_line_end_stays_one_line(end: str, tmp_path: Path) -> None:
    name = f'x{end}raymill_gateway_ready{{replica="x"}} 1.0{end}'
    write(tmp_path, "one", ready=False, route=name)
    families = {family.name: family for family in text_string_to_metric_families(joined(living(tmp_path)))}
    labels = [sample.labels["route"] for sample in families["raymill_gateway_cache"].samples]
    assert set(labels) == {name}
    assert not_ready(tmp_path)


def test_a_replica_that_stopped_writing_is_left_out_and_its_file_taken_away(tmp_path: Path) -> None:
    write(tmp_path, "alive")
    write(tmp_path, "dead", ready=False)
    long_ago = time.time() - STALE_S - 1
    os.utime(tmp_path / "gateway-dead.prom", (long_ago, long_ago))
    assert "dead" not in joined(living(tmp_path))
    assert not (tmp_path / "gateway-dead.prom").exists()


def test_the_machine_is_ready_while_one_replica_is(tmp_path: Path) -> None:
    assert not not_ready(tmp_path)
    assert joined(living(tmp_path)) == ""
    write(tmp_path, "full", ready=False)
    assert not_ready(tmp_path)
    write(tmp_path, "free")
    assert not not_ready(tmp_path)
