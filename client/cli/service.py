"""`raymill up`, `down`, `doctor`, `tls`, `status`: the service itself.

All but the last run as processes of their own, because what they start imports Ray and the database.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.output import NOTHING, out, out_json, table
from raymill.client.types import Status

up_app, down_app, doctor_app, status_app = new_app(), new_app(), new_app(), new_app()
tls_app = new_app("Certificates by an authority of one's own, for where no other is at hand (docs/tls.md).")


@up_app.command()
def up(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="HTTP port; 8000 by default.")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Join the Ray cluster whose head is at HOST:PORT instead of starting one."),
    ] = None,
    dashboard_url: Annotated[
        str | None, typer.Option(help="Dashboard of that cluster, to which heavy jobs are submitted.")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Postgres 15 or newer; by default one is started here. DATABASE_URL keeps it off the screen."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the service and wait until it answers. Does nothing when it already runs."""
    options = {"--port": port, "--address": address, "--dashboard-url": dashboard_url}
    arguments = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    # A URL holds a password, and every user of the machine can read a process's arguments.
    secret = {"RAYMILL_DATABASE_URL": database_url} if database_url else {}
    _run("raymill.cluster.up", arguments, env=secret, as_json=as_json)


@down_app.command()
def down(as_json: Json = False) -> None:
    """Stop the service. Jobs go on where they were at the next `up`."""
    _run("raymill.cluster.down", [], as_json=as_json)


@doctor_app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and the service; each finding names its cure. Exit 1 when something is wrong."""
    code = process("raymill.cluster.doctor", ["--json"] if as_json else [])
    raise typer.Exit(code)


@tls_app.command("make")
def make_certificate(
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A name or address that clients use, besides this machine's."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it holds.")] = 397,
    out_dir: Annotated[
        str | None, typer.Option("--out", help="Folder of the files; `tls` in the home by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a certificate and say how to use it. The authority is made the first time; a listener takes a new
    certificate by itself."""
    arguments = [text for each in name or [] for text in ("--name", each)]
    arguments += ["--days", str(days)]
    arguments += [] if out_dir is None else ["--out", out_dir]
    raise typer.Exit(process("raymill.cluster.tls_make", [*arguments, *(["--json"] if as_json else [])]))


@status_app.command()
def status(as_json: Json = False) -> None:
    """Nodes, jobs and what is served."""
    with connect() as client:
        answer = client.status()
        if as_json:
            out_json(answer)
            return
        out(f"Raymill {answer.version} at {client.url}, Postgres {answer.database}")
    out(_jobs_line(answer))
    out()
    nodes = [(str(n.get("node_id"))[:12], _alive(n), _resources(n)) for n in answer.nodes]
    out(table(["NODE", "STATE", "RESOURCES"], nodes))
    out()
    served = [
        (d.llm, d.alias, d.version, d.state, _replicas(d.config), d.message) for d in answer.deployments
    ]
    heads = ["MODEL", "ALIAS", "VERSION", "STATE", "REPLICAS", "MESSAGE"]
    out(table(heads, served) if served else "Nothing is served.")


def _jobs_line(answer: Status) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in answer.jobs.items() if count)
    return f"Jobs: {counts or 'none yet'}"


def _replicas(config: dict[str, object]) -> str:
    """As its settings ask for: 2, or 0-4 where they follow the requests."""
    scale = config.get("autoscale")
    if isinstance(scale, dict):
        return f"{scale.get('min_replicas', 1)}-{scale['max_replicas']}"
    return str(config.get("replicas", 1))


def _alive(node: dict[str, object]) -> str:
    return "alive" if node.get("alive") else "gone"


def _resources(node: dict[str, object]) -> str:
    total, free = node.get("resources"), node.get("available")
    if not isinstance(total, dict):
        return NOTHING
    names = [name for name in ("CPU", "GPU") if name in total]
    if not isinstance(free, dict):
        return ", ".join(f"{total[name]:g} {name}" for name in names) or NOTHING
    return ", ".join(f"{free.get(name, 0):g} of {total[name]:g} {name} free" for name in names) or NOTHING


def _run(module: str, arguments: list[str], *, as_json: bool, env: dict[str, str] | None = None) -> None:
    """Run a module of the service. Its own words go to stderr when the result is to be JSON."""
    code = process(module, arguments, env=env, quiet=as_json)
    if as_json and code == 0:
        from raymill.client.settings import load_settings

        out_json({"ok": True, "url": load_settings().url})
    raise typer.Exit(code)


def process(
    module: str, arguments: list[str], *, env: dict[str, str] | None = None, quiet: bool = False
) -> int:
    """Run a module of the service, which imports what is not light, and return its exit code."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, env={**os.environ, **(env or {})}, stdout=sys.stderr if quiet else None, check=False
    )
    # A process that a signal ended has a negative code; shells write it as 128 + signal.
    return done.returncode if done.returncode >= 0 else 128 - done.returncode
