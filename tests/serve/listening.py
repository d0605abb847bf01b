"""An application behind a real socket of the loopback interface."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp


@contextlib.contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Its URL, for as long as the block lasts."""
    server = uvicorn.Server(
        # What a caller says of its address is not read here, as it is not in the service (`serve/gateway/direct.py`).
        uvicorn.Config(app, port=0, log_level="warning", lifespan="off", proxy_headers=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
