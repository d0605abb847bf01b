"""A bare pass-through by uvicorn: `python -m benchmarks.passthrough PORT UPSTREAM_URL [aiohttp|httpx]`.

What one would write instead of a gateway: read the body, send it on, give the answer back. No keys, no
limits, no records, no streams. One process, uvloop and httptools, which is the fastest uvicorn can do.
"""

from __future__ import annotations

import sys
from typing import Protocol

import aiohttp
import httpx
import uvicorn
from starlette.types import Receive, Scope, Send


class Forward(Protocol):
    async def __call__(self, body: bytes) -> tuple[int, bytes]: ...


class Aiohttp:
    """The faster of the two clients."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, body: bytes) -> tuple[int, bytes]:
        if self._session is None:  # wants a running loop
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=body, headers=headers) as answer:
            return answer.status, await answer.read()


class Httpx:
    """The client that most Python services use."""

    def __init__(self, url: str) -> None:
        self._url = url
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(limits=limits, timeout=60, trust_env=False)

    async def __call__(self, body: bytes) -> tuple[int, bytes]:
        headers = {"content-type": "application/json"}
        answer = await self._client.post(self._url, content=body, headers=headers)
        return answer.status_code, answer.content


class PassThrough:
    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (any path)
        parts: list[bytes] = []
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        status, answer = await self._forward(b"".join(parts))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def main() -> None:
    port, url = int(sys.argv[1]), sys.argv[2]
    forward: Forward = Httpx(url) if sys.argv[3:] == ["httpx"] else Aiohttp(url)
    uvicorn.run(
        PassThrough(forward),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
    )


if __name__ == "__main__":
    main()
