"""Status, alerts and `/metrics` of a registry in which something is wrong, and the dashboards made of them."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert
from tests.registry.making import World, claim_one
from tests.serve.api_lab import API, stranger
from tests.serve.control_app import app_of
from tests.serve.control_lab import die

from raymill.client import types
from raymill.client.cli.jobs import details
from raymill.client.status_types import Status
from raymill.cluster.attempt import open_attempt
from raymill.cluster.backup import manifest
from raymill.cluster.job_numbers import JobNumbers
from raymill.cluster.numbers import Publisher
from raymill.cluster.ray_jobs import DRIVER, submission_id
from raymill.cluster.service import Service, write_service
from raymill.cluster.settings import Settings
from raymill.registry import jobs
from raymill.registry.jobs import JobSpec
from raymill.registry.tables import DriftRun, DriftWatch, Role, new_id
from raymill.serve.api.context import Parts
from raymill.serve.gateway.metrics import Metrics

__all__ = ["stranger"]  # fixtures


@pytest.fixture
def viewer(stranger: TestClient, world: World) -> TestClient:
    stranger.headers["authorization"] = f"Bearer {world.add_key(Role.VIEWER)}"
    return stranger


@pytest.fixture
def troubled(world: World, app: FastAPI) -> None:
    """A dead letter, drift, an old backup that was never proven, an open breaker; every part tells numbers."""
    settings = Settings(home=world.home, backup_every_s=3600)
    app_of(Parts(settings=settings, database=world.database))
    with world.database.transaction() as session:
        jobs.enqueue(jobs.raw(session), [JobSpec(kind="note") for _ in range(3)])
    numbers = JobNumbers()
    dead = claim_one(world.database)
    numbers.claimed([dead], 0.01)
    die(world, dead)
    numbers.ended(dead.queue, dead.kind, "dead", 0.2)
    numbers.lost("heavy", "train")
    watch_id = new_id()
    with world.database.transaction() as session:
        session.add(DriftWatch(id=watch_id, name="support", config={}, created_by="ada"))
        session.flush()
        session.execute(
            insert(DriftRun).values(
                id=new_id(),
                watch_id=watch_id,
                job_id=new_id(),
                severity="major",
                news=True,
                action="tell",
                reasons=["answers became shorter"],
                baseline=False,
            )
        )
    old = settings.backups_dir / f"{dt.datetime.now(dt.UTC) - dt.timedelta(days=1):%Y%m%dT%H%M%SZ}"
    old.mkdir(parents=True)
    (old / manifest.MANIFEST).write_text("{}")
    engine = Publisher(settings.metrics_dir, "engine", numbers.families, database=world.database)
    engine.write()
    Publisher(settings.metrics_dir, "reconciler").write()
    gateway = Metrics("g1")
    gateway.refused("invalid_api_key", 401)
    gateway.cache("support", hit=True)
    text = gateway.text({"openai/gpt": "open"}, 7, 2, None)
    (settings.metrics_dir / "gateway-g1.prom").write_text(text)
    parts = app.state.parts
    api = Publisher(settings.metrics_dir, "api", parts.numbers.families, database=world.database)
    api.write()


@pytest.mark.usefixtures("troubled")
def test_status_tells_on_one_screen_what_is_wrong_and_its_cure(viewer: TestClient) -> None:
    status = Status.model_validate(viewer.get(f"{API}/status").raise_for_status().json())
    assert status.jobs == {"queued": 2, "dead": 1}
    assert status.parts == {"api": 1, "engine": 1, "gateway": 1, "reconciler": 1}
    assert status.gateway.model_dump() == {"replicas": 1, "in_flight": 2, "breakers": {"openai/gpt": "open"}}
    short = next(queue for queue in status.queues if queue.queue == "short")
    assert (short.ready, short.dead) == (2, 1)
    told = [
        (alert.severity, alert.name, alert.subject) for alert in status.alerts if alert.name != "disk_low"
    ]
    assert told == [
        ("critical", "backup_old", "backups"),
        ("critical", "drift", "support"),
        ("warning", "breaker_open", "openai/gpt"),
        ("warning", "dead_letters", "short"),
        ("warning", "backup_old", "backups"),
    ]
    assert all(alert.message and alert.cure for alert in status.alerts)


def test_a_service_whose_parts_say_nothing_is_told_of(viewer: TestClient) -> None:
    status = Status.model_validate(viewer.get(f"{API}/status").raise_for_status().json())
    silent = {alert.subject: alert.severity for alert in status.alerts if alert.name == "part_silent"}
    assert silent == dict.fromkeys(("gateway", "engine", "reconciler"), "critical")


def scrape(client: TestClient) -> dict[str, Any]:
    """Metric names -> samples, as Prometheus' own parser reads them."""
    text = client.get("/metrics").raise_for_status().text
    found: dict[str, Any] = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found, "a family is told once"
        assert family.documentation
        found[family.name] = family
    return found


@pytest.mark.usefixtures("troubled")
def test_one_scrape_tells_all_parts_with_units_and_without_a_series_twice(viewer: TestClient) -> None:
    viewer.get(f"{API}/jobs?limit=1")
    families = scrape(viewer)
    assert all(name.startswith("raymill_") for name in families)
    series = [(s.name, tuple(sorted(s.labels.items()))) for f in families.values() for s in f.samples]
    assert len(series) == len(set(series))

    def value(metric: str, **labels: str) -> float:
        samples = families[metric.removesuffix("_total")].samples
        (found,) = [s.value for s in samples if s.name == metric and labels.items() <= s.labels.items()]
        return float(found)

    assert value("raymill_jobs", queue="short", kind="note", state="ready") == 2
    assert value("raymill_jobs", queue="short", kind="note", state="dead") == 1
    assert 0 <= value("raymill_job_oldest_ready_seconds", queue="short", kind="note") < 60
    assert value("raymill_job_attempts_total", queue="short", kind="note") == 1
    assert value("raymill_job_attempts_ended_total", kind="note", state="dead") == 1
    assert value("raymill_job_workers_lost_total", queue="heavy", kind="train") == 1
    assert value("raymill_gateway_breaker", target="openai/gpt") == 2
    assert value("raymill_drift_severity", watch="support") == 2
    assert value("raymill_postgres_pool_limit", part="engine") >= 5
    assert value("raymill_alerts", name="dead_letters", severity="warning") == 1
    age_s = time.time() - value("raymill_backup_last_success_timestamp_seconds")
    assert age_s == pytest.approx(86_400, abs=60)
    assert value("raymill_audit_rows_total") >= 1


DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))


def expressions_of(dashboard: Path) -> list[str]:
    found = json.loads(dashboard.read_text())
    names = [variable["name"] for variable in found["templating"]["list"]]
    assert names[0] == "datasource"
    queries = [each["query"] for each in found["templating"]["list"][1:]]
    for panel in found["panels"]:
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= set(names)
            queries.append(target["expr"])
    return queries


@pytest.mark.usefixtures("troubled")
def test_every_metric_of_a_dashboard_and_of_an_alert_rule_is_in_the_scrape(viewer: TestClient) -> None:
    viewer.get(f"{API}/jobs?limit=1")
    told: set[str] = set()
    for name, family in scrape(viewer).items():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        told |= {name + ending for ending in endings}
    assert [path.stem for path in DASHBOARDS] == ["gateway", "jobs", "overview"]
    used = {path.name: expressions_of(path) for path in DASHBOARDS}
    used["alerts.yaml"] = [rule["expr"] for rule in ALERTS]
    for file, expressions in used.items():
        for expression in expressions:
            assert expression.count("(") == expression.count(")"), (file, expression)
            missing = set(re.findall(r"raymill_\w+", expression)) - told
            assert missing == set(), (file, expression)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "cure"}


def test_a_heavy_job_tells_its_page_in_rays_dashboard(viewer: TestClient, world: World) -> None:
    settings = Settings(home=world.home)
    with world.database.transaction() as session:
        (job_id,) = jobs.enqueue(jobs.raw(session), [JobSpec(kind="chaos_heavy", queue="heavy")])
    job = claim_one(world.database, queue="heavy")
    assert viewer.get(f"{API}/jobs/{job_id}").json()["dashboard_url"] is None
    url = "http://127.0.0.1:8265"
    write_service(
        settings,
        Service(url="http://127.0.0.1:1", ray_address="127.0.0.1:2", dashboard_url=url, supervisor_pid=1),
    )
    worker = DRIVER + submission_id(job.id, job.epoch)
    open_attempt(world.database, settings, job.id, job.epoch, worker=worker)
    shown = types.Job.model_validate(viewer.get(f"{API}/jobs/{job_id}").json())
    assert shown.dashboard_url == f"{url}/#/jobs/{job_id}-1"
    assert f"dashboard    {shown.dashboard_url}" in details(shown)


def documented() -> dict[str, tuple[str, set[str], str]]:
    """Name -> type, labels, meaning, as the table in the manual has them."""
    text = (DEPLOY.parent / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| `(raymill_\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return {name: (kind, set(labels.split(", ")) - {"-"}, said) for name, kind, labels, said in rows}


@pytest.mark.usefixtures("troubled")
def test_the_manual_has_every_metric_with_its_type_labels_and_meaning(viewer: TestClient) -> None:
    known, told = documented(), scrape(viewer)
    names = {name + ("_total" if family.type == "counter" else ""): family for name, family in told.items()}
    assert sorted(names) == sorted(known)
    for name, family in names.items():
        kind, labels, said = known[name]
        assert (family.type, family.documentation) == (kind, said), name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels, name
