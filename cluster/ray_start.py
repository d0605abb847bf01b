"""`ray start`, whose raylet is told at which port its agent listens: `python -m raymill.cluster.ray_start start …`.

Ray 2.60 tells it the other ports and leaves this one out, though the raylet has a flag for it. It then waits until the agent
has imported what it needs and has written the port to a file, and dies after 15 s, which a busy machine exceeds. Goes when
`start_raylet` passes `--dashboard_agent_listen_port`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ray._private import ray_constants, services
from ray.scripts.scripts import main as ray_main

LISTEN = re.compile(r"--listen-port=([1-9]\d*)")

_start = services.start_ray_process


def start_ray_process(command: Sequence[str], process_type: str, *given: Any, **named: Any) -> Any:
    if process_type == ray_constants.PROCESS_TYPE_RAYLET:
        command = [*command, *agent_flag(command)]
    return _start(command, process_type, *given, **named)


def agent_flag(command: Sequence[str]) -> list[str]:
    """The raylet's flag, by the command that it starts its agent with; nothing where the agent takes any port."""
    ports = [found[1] for part in command if (found := LISTEN.search(part)) is not None]
    return [f"--dashboard_agent_listen_port={port}" for port in ports]


def main() -> None:
    services.start_ray_process = start_ray_process
    ray_main()


if __name__ == "__main__":
    main()
