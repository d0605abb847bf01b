"""Traces from the client's own to the engine's and the job's spans, as a collector on loopback receives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import select
from tests.registry.making import World, claim_one, make_pipeline, step
from tests.serve.control_app import app_of
from tests.serve.gateway_tools import KEY, ScriptedEngine, made

from raymill.cluster import tracing
from raymill.cluster.attempt import open_attempt
from raymill.cluster.settings import Settings
from raymill.registry import trace_context
from raymill.registry.tables import JobEvent, Role
from raymill.serve.api.context import Parts
from raymill.serve.gateway.catalog import Served
from raymill.serve.gateway.wire import Operation
from raymill.serve.llm.answer import Body, Reply
from raymill.serve.llm.traced import TRACEPARENT, traced

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}


class Span(NamedTuple):
    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Span]]:
    """What arrives at a collector that every part of this process exports to."""
    received: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = next(
                    a.value.string_value for a in group.resource.attributes if a.key == "service.name"
                )
                for each in (each for scope in group.scope_spans for each in scope.spans):
                    told = {a.key: a.value.string_value or a.value.int_value for a in each.attributes}
                    ids = (each.trace_id.hex(), each.span_id.hex(), each.parent_span_id.hex())
                    received.append(Span(service, each.name, *ids, told))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    tracing.tracer.cache_clear()
    yield received
    tracing.tracer.cache_clear()
    trace_context.carry(None)
    server.shutdown()
    thread.join()
    server.server_close()


def flush(*parts: str) -> None:
    for part in parts:
        of_part = tracing.tracer(part)
        assert of_part is not None
        of_part.flush()


class Engine(ScriptedEngine):
    """Answers through what both engines of ours are wrapped in."""

    async def whole(self, served: Served, operation: Operation, body: Body) -> Reply:
        async def chat(engine: ScriptedEngine, body: Body) -> Reply:
            return await ScriptedEngine.whole(engine, served, operation, body)

        return await traced(chat)(self, body)


def test_a_chat_is_a_span_of_the_gateway_below_the_clients_and_one_of_the_engine_below_that(
    spans: list[Span],
) -> None:
    engine = Engine()
    body = {"model": "support-triage@production", "messages": [{"role": "user", "content": "Hello."}]}
    with made(engine) as (app, address):
        headers = {"authorization": f"Bearer {KEY}", **SENT}
        httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers).raise_for_status()
        assert app.parts.recorder.spans is not None
        app.parts.recorder.spans.close()
    flush("engine")
    by_service = {span.service: span for span in spans}
    gateway, answered = by_service["raymill-gateway"], by_service["raymill-engine"]
    assert (gateway.trace, gateway.parent) == (TRACE, CLIENT)
    assert (answered.trace, answered.parent, answered.name) == (TRACE, gateway.id, "engine chat")
    assert TRACEPARENT not in engine.seen[0], "an engine does not know it"


def test_a_job_keeps_the_trace_of_the_request_that_asked_for_it(
    world: World, spans: list[Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL_KINDS", "tests.serve.control_kinds")
    settings = Settings(home=world.home)
    headers = {"authorization": f"Bearer {world.add_key(Role.OPERATOR)}"}
    with TestClient(app_of(Parts(settings=settings, database=world.database))) as client:
        for sent in (SENT, {}):  # without one a trace begins here
            answer = client.post("/api/v1/jobs", json={"kind": "greet"}, headers={**headers, **sent})
            assert answer.status_code == 201
            assert (
                client.get("/api/v1/jobs", headers=headers).status_code == 200
            )  # who only looks leaves no span
            job = claim_one(world.database)
            open_attempt(world.database, settings, job.id, job.epoch).run()
    flush("api", "job")
    asked, alone = (span for span in spans if span.service == "raymill-api")
    worked, later = (span for span in spans if span.service == "raymill-job")
    assert (asked.name, asked.trace, asked.parent) == ("POST /api/v1/jobs", TRACE, CLIENT)
    assert (worked.name, worked.trace, worked.parent) == ("job greet", TRACE, asked.id)
    assert worked.attributes["raymill.state"] == "succeeded"
    assert (alone.parent, later.parent, later.trace) == ("", alone.id, alone.trace)
    assert alone.trace != TRACE


def test_steps_of_a_pipeline_share_its_trace_and_nothing_is_kept_without_one(world: World) -> None:
    trace_context.carry("nonsense")
    make_pipeline(world.database, step("a"))
    trace_context.carry(SENT["traceparent"])
    pipeline = make_pipeline(world.database, step("a"), step("b", "a"))
    trace_context.carry(None)
    with world.database.transaction() as session:
        kept = session.scalars(select(JobEvent).where(JobEvent.kind == trace_context.EVENT)).all()
        assert [row.pipeline_id for row in kept] == [pipeline.id]
        assert trace_context.kept(session, kept[0].job_id, pipeline.id) == SENT["traceparent"]
