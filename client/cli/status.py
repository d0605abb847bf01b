"""`raymill status`: the service on one screen, once or again and again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.jobs_control import latency
from raymill.client.cli.output import NOTHING, duration, out, out_json, say, table
from raymill.client.control_types import QueueStats
from raymill.client.status_types import Status
from raymill.client.types import JsonObject
from raymill.policies.errors import RaymillError

app = new_app()

CLEAR = "\x1b[H\x1b[2J\x1b[3J"
GIB = 1 << 30


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks of --watch.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Nodes, queues, what is served, and what to look at. With --watch and --json, a document on each line."""
    with connect() as client:
        if not watch:
            answer = client.status()
            out_json(answer) if as_json else out(screen(answer, client.url))
            return
        while True:
            try:
                answer = client.status()
            except RaymillError as error:  # it may be restarting; whoever watches wants to see it come back
                say(f"error: {error}")
            else:
                if as_json:
                    out(json.dumps(answer.model_dump(mode="json"), ensure_ascii=False))
                else:
                    out((CLEAR if sys.stdout.isatty() else "") + screen(answer, client.url))
                sys.stdout.flush()
            time.sleep(every)


def screen(answer: Status, url: str) -> str:
    """All of it as text."""
    return "\n\n".join(_sections(answer, url))


def _sections(answer: Status, url: str) -> Iterator[str]:
    yield f"Raymill {answer.version} at {url}, Postgres {answer.database}\n{_parts(answer)}"
    yield _alerts(answer)
    living = [node for node in answer.nodes if node.get("alive")]
    gone = len(answer.nodes) - len(living)
    nodes = [(str(node.get("node_id"))[:12], *_resources(node)) for node in living]
    yield table(["NODE", "CPU FREE", "GPU FREE", "MEMORY FREE"], nodes) + (f"\n{gone} gone" if gone else "")
    yield table(
        ["QUEUE", "RUNNING", "READY", "OLDEST", "LATER", "DEAD", "START P99"], map(_queue, answer.queues)
    )
    served = [
        (d.llm, d.alias, d.version, d.state, _replicas(d.config), d.message) for d in answer.deployments
    ]
    yield (
        table(["MODEL", "ALIAS", "VERSION", "STATE", "REPLICAS", "MESSAGE"], served)
        if served
        else "Nothing is served."
    )
    if answer.canaries:
        rows = [
            (c.llm, c.alias, c.version, c.state, f"{c.share:.0%}", duration(c.age_s)) for c in answer.canaries
        ]
        yield table(["CANARY OF", "ALIAS", "VERSION", "STATE", "SHARE", "AGE"], rows)


def _parts(answer: Status) -> str:
    parts = ", ".join(f"{count} {part}" for part, count in sorted(answer.parts.items()))
    gateway = answer.gateway
    return f"Processes: {parts or 'none'}; the gateway is answering {gateway.in_flight} requests"


def _alerts(answer: Status) -> str:
    if not answer.alerts:
        return "Nothing is known to be wrong."
    return "\n".join(
        f"{each.severity:<9}{each.name:<18}{each.message} -> {each.cure}" for each in answer.alerts
    )


def _resources(node: JsonObject) -> tuple[str, str, str]:
    total, free = node.get("resources") or {}, node.get("available") or {}

    def of(name: str, unit: float = 1.0) -> str:
        if name not in total:
            return NOTHING
        return f"{free.get(name, 0) / unit:.4g} of {total[name] / unit:.4g}"

    memory = of("memory", GIB)
    return of("CPU"), of("GPU"), memory if memory == NOTHING else f"{memory} GiB"


def _queue(each: QueueStats) -> tuple[object, ...]:
    return (
        each.queue if each.paused_at is None else f"{each.queue} (paused)",
        f"{each.running}" if each.max_running is None else f"{each.running}/{each.max_running}",
        each.ready,
        duration(each.oldest_ready_s),
        each.scheduled + each.waiting,
        each.dead,
        latency(each.start_p99_s),
    )


def _replicas(config: dict[str, object]) -> str:
    """As its settings ask for: 2, or 0-4 where they follow the requests."""
    scale = config.get("autoscale")
    if isinstance(scale, dict):
        return f"{scale.get('min_replicas', 1)}-{scale['max_replicas']}"
    return str(config.get("replicas", 1))
