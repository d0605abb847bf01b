"""What Ray's head runs to start a worker that has a runtime environment, in place of Ray's script of this name.

    python setup_worker.py [--language=…] --serialized-runtime-env-context=JSON default_worker.py ARGUMENT…

Ray's imports all of Ray, only to set the environment and become the worker, which imports it again. This one hands
a worker whose job says so (`SOCKET` in its environment) to the warm process, and becomes Ray's script otherwise. The
raylet knows a worker by a token among its arguments, not as its child, so this process need not stay.

Can go when Ray starts workers by fork (ray 2.60).
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

from raymill.cluster.warm import client

SOCKET = "RAYMILL_WARM_SOCKET"
"""The warm process's, in the runtime environment of a job that is to start from it."""

CONTEXT = "--serialized-runtime-env-context="
LANGUAGE = "--language="
PLAIN = {"env_vars", "py_executable"}
"""Parts of a runtime environment that a copy can have."""


def main() -> None:
    path, variables, program = read(sys.argv[1:])
    if path is not None:
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            client.ask(path, program, wait=False)
        except (OSError, ValueError):
            os.environ.clear()
            os.environ.update(before)
        else:
            return
    script = str(ray_script())
    os.execv(sys.executable, [sys.executable, script, *sys.argv[1:]])


def read(arguments: list[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """The warm process's socket, the worker's own variables and its program.

    No socket where the worker's job names none, or the runtime environment asks for more than variables.
    """
    context = next((each.removeprefix(CONTEXT) for each in arguments if each.startswith(CONTEXT)), "{}")
    program = [each for each in arguments if not each.startswith((CONTEXT, LANGUAGE))]
    asked = {name: value for name, value in json.loads(context).items() if value}
    variables: dict[str, str] = asked.get("env_vars", {})
    plain = (
        asked.keys() <= PLAIN
        and asked.get("py_executable", sys.executable) == sys.executable
        # Ray would put other variables in their places.
        and not any("$" in value for value in variables.values())
        and program[:1] == [str(ray_script().with_name("default_worker.py"))]
    )
    return (variables.get(SOCKET) if plain else None), variables, program


def ray_script() -> Path:
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "_private" / "workers" / "setup_worker.py"


if __name__ == "__main__":
    main()
