"""Sends a login's access token, and trades the refresh token for the next pair before it expires.

A refresh token works once, so processes of one machine take turns: one that finds the lock taken goes on with the token
it has, or waits when that has expired.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator

import httpx

from raymill.client import identity_types as types
from raymill.client.session_file import SessionFile, StoredSession
from raymill.policies.errors import Denied

EARLY_S = 60.0
POLL_S = 0.1
WAIT_S = 10.0
REFRESH_PATH = "/api/v1/sessions/refresh"


def stored(tokens: types.Tokens) -> StoredSession:
    """What of an answer is kept."""
    return StoredSession(
        account=tokens.account,
        session_id=str(tokens.session_id),
        access_token=tokens.access_token,
        expires_at=tokens.expires_at.timestamp(),
        refresh_token=tokens.refresh_token,
    )


class SessionAuth(httpx.Auth):
    """For one service, whose login lies in `file`."""

    def __init__(self, url: str, file: SessionFile) -> None:
        self._url = url
        self._file = file

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        flow = self._flow(request)
        response: httpx.Response | None = None
        while True:
            try:
                step = flow.send(response)
            except StopIteration:
                return
            response = None
            if isinstance(step, float):
                time.sleep(step)
            else:
                response = yield step
                if step is not request:  # whose answer may be a stream
                    response.read()

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        flow = self._flow(request)
        response: httpx.Response | None = None
        while True:
            try:
                step = flow.send(response)
            except StopIteration:
                return
            response = None
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                response = yield step
                if step is not request:
                    await response.aread()

    def _flow(self, request: httpx.Request) -> Generator[httpx.Request | float, httpx.Response | None, None]:
        """Requests to send, and pauses in seconds.

        Raises:
            Denied: the session has ended.
        """
        deadline = time.monotonic() + WAIT_S
        while (session := self._file.get(self._url)) is not None and self._is_old(session):
            with self._file.try_lock() as mine:
                if mine and (session := self._file.get(self._url)) is not None and self._is_old(session):
                    yield from self._refresh(session)
                    continue
            if session is None or session.expires_at > time.time() or time.monotonic() > deadline:
                break
            yield POLL_S
        if session is None:
            raise Denied(f"the login at {self._url} has ended: log in again with `raymill login`")
        request.headers["Authorization"] = f"Bearer {session.access_token}"
        yield request

    def _refresh(
        self, session: StoredSession
    ) -> Generator[httpx.Request | float, httpx.Response | None, None]:
        body = {"refresh_token": session.refresh_token}
        response = yield httpx.Request("POST", self._url + REFRESH_PATH, json=body)
        assert response is not None
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._file.put(self._url, None)
        elif response.is_success:
            self._file.put(self._url, stored(types.Tokens.model_validate_json(response.content)))
        else:
            raise Denied(
                f"{self._url} did not renew the login ({response.status_code}): try again in a moment"
            )

    @staticmethod
    def _is_old(session: StoredSession) -> bool:
        return session.expires_at < time.time() + EARLY_S
