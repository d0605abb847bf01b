"""The job engine's pool and its sweeper in one process, and the control plane in another, without Ray, for
`benchmarks/code_pipeline.py`: `python -m benchmarks.code_engine engine|api`.

Both read the environment of a service. The api prints its port.
"""

from __future__ import annotations

import socket
import sys
import threading
import time


def engine() -> None:
    """Work until it is killed."""
    from raymill.cluster.engine import Sweeper
    from raymill.cluster.pool import PoolWorker
    from raymill.cluster.settings import Settings

    settings = Settings()
    worker = PoolWorker("bench-code")
    threading.Thread(target=worker.run, daemon=True).start()
    sweeper = Sweeper(settings.open_database(), settings)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        sweeper.step()
        time.sleep(1.0)


def api() -> None:
    """Serve until it is killed."""
    import uvicorn

    from raymill.cluster.settings import Settings
    from raymill.serve.api.app import create_app
    from raymill.serve.api.context import Parts

    settings = Settings()
    app = create_app(Parts(settings=settings, database=settings.open_database(pool_size=10)))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", loop="uvloop"))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    server.run(sockets=[listener])


if __name__ == "__main__":
    {"engine": engine, "api": api}[sys.argv[1]]()
