"""`ray start` that does not let what answers people wait: `python -m raymill.cluster.ray_start start …`.

What Ray 2.60 does otherwise, and what is done about it here:

- It starts the dashboard and waits until that answers, ten seconds and more, before it starts the raylet. Here they start beside each other, the
  raylet says that it is there (`ALIVE`), and what only watches gives way to the workers.
- It imports what `ray serve`, `ray job` and `ray list` need: three of four seconds of a core before it does anything. Here it is told that they are not there.
- It starts a server for Ray Client, and nobody here has one.
- It tells the raylet the other ports and leaves out at which one its agent listens, though the raylet has a flag for it. The raylet then waits until the
  agent has imported what it needs and has written the port to a file, and dies after 15 s, which a busy machine exceeds.

The last goes when `start_raylet` passes `--dashboard_agent_listen_port`.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray._common.network_utils import build_address
from ray._private import ray_constants, services
from ray._private.node import Node

from raymill.cluster.head_files import ALIVE

OTHER_COMMANDS = ("ray.serve.scripts", "ray.dashboard.modules.job.cli", "ray.util.state.state_cli")
"""Ray's command goes on without those that cannot be imported."""

LISTEN = re.compile(r"--listen-port=([1-9]\d*)")

REGISTER_S = 120.0
AGENT = "--dashboard_agent_command="

WATCHERS = {ray_constants.PROCESS_TYPE_DASHBOARD, ray_constants.PROCESS_TYPE_LOG_MONITOR}
WATCHING_NICENESS = 10
"""Of the dashboard, its agent and the log's reader: behind what answers people, before heavy jobs (`processes.WORK_NICENESS`)."""

dashboard_started = threading.Event()

_start = services.start_ray_process
_start_api_server = Node.start_api_server
_start_ray_processes = Node.start_ray_processes


def start_ray_process(command: Sequence[str], process_type: str, *given: Any, **named: Any) -> Any:
    if process_type == ray_constants.PROCESS_TYPE_RAYLET:
        command = [*map(giving_way, command), *agent_flag(command)]
    started = _start(command, process_type, *given, **named)
    if process_type in WATCHERS:
        os.setpriority(os.PRIO_PROCESS, started.process.pid, WATCHING_NICENESS)
    return started


def giving_way(part: str) -> str:
    """The raylet's flag with its agent's command, so that the agent gives way; any other as it is."""
    return part.replace(AGENT, f"{AGENT}nice -n {WATCHING_NICENESS} ", 1) if part.startswith(AGENT) else part


def agent_flag(command: Sequence[str]) -> list[str]:
    """The raylet's flag, by the command that it starts its agent with; nothing where the agent takes any port."""
    ports = [found[1] for part in command if (found := LISTEN.search(part)) is not None]
    return [f"--dashboard_agent_listen_port={port}" for port in ports]


def start_api_server(node: Node, **given: Any) -> None:
    """In a thread of its own. What it tells others is known before: `plan_head` chose the port."""
    node._webui_url = build_address(node._ray_params.dashboard_host, node._ray_params.dashboard_port)

    def start() -> None:
        try:
            _start_api_server(node, **given)
        finally:
            dashboard_started.set()
        # The kernel kills the dashboard when the thread that started it ends (PR_SET_PDEATHSIG).
        threading.Event().wait()

    threading.Thread(target=start, name="dashboard", daemon=True).start()


def start_ray_processes(node: Node) -> None:
    _start_ray_processes(node)
    if node.head:
        services.get_node_with_retry(node.gcs_address, node.node_id, REGISTER_S, 0.1)
        (Path(node.temp_dir) / ALIVE).touch()
        dashboard_started.wait()


def start_no_client_server(_: Node) -> None:
    """Nobody here has a Ray Client."""


def command() -> Callable[[], None]:
    """Ray's command, without what `start` does not need."""
    for name in OTHER_COMMANDS:
        sys.modules[name] = None  # type: ignore[assignment]
    from ray.scripts import scripts

    for name in OTHER_COMMANDS:
        del sys.modules[name]
    start: Callable[[], None] = scripts.main
    return start


def main() -> None:
    services.start_ray_process = start_ray_process
    Node.start_api_server = start_api_server
    Node.start_ray_processes = start_ray_processes
    Node.start_ray_client_server = start_no_client_server
    command()()


if __name__ == "__main__":
    main()
