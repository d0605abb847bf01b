"""Uvicorn's HTTP with less work for each request: head and body in one write, headers looked at once, no timer.

A write is a system call and a packet, which wakes HAProxy. What uvicorn looks for in each header with two regular
expressions (a line break) is looked for once, in the finished head. Idle connections are closed by `alarms`.
"""

from __future__ import annotations

from typing import cast

from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from raymill.serve.gateway.alarms import alarms


class OneWriteCycle(RequestResponseCycle):
    """The head waits for the first piece of the body. Whoever starts an answer sends that piece soon."""

    _head = b""

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"an answer begins with http.response.start, not {kind}")
            self._start(cast("HTTPResponseStartEvent", message))
        elif self.response_complete or kind != "http.response.body":
            raise RuntimeError(f"{kind} is not possible here: the answer has begun or is over")
        else:
            self._body(cast("HTTPResponseBodyEvent", message))

    def _start(self, message: HTTPResponseStartEvent) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        status = message["status"]
        headers = [*self.default_headers, *message.get("headers", ())]
        content = [STATUS_LINE[status]]
        lines = 1
        for name, value in headers:
            name = name.lower()  # noqa: PLW2901 (as it is sent)
            if name == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"transfer-encoding":
                continue  # ours to say
            elif name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            content += (name, b": ", value, b"\r\n")
            lines += 1
        if not self.keep_alive:
            content.append(b"connection: close\r\n")
            lines += 1
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            content.append(b"transfer-encoding: chunked\r\n")
            lines += 1
        head = b"".join(content)
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise RuntimeError("a header holds a line break")
        self._head = head + b"\r\n"

    def _body(self, message: HTTPResponseBodyEvent) -> None:
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            self.expected_content_length, data = 0, b""
        elif self.chunked_encoding:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                data += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than its content-length")
            data = body
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self.transport.write(data)
        if not more:
            if self.expected_content_length > 0:
                raise RuntimeError("the body is shorter than its content-length")
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


class FewTimersProtocol(HttpToolsProtocol):
    """A connection that is closed when it was idle for the keep-alive time."""

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            alarms().set(self, self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        alarms().clear(self)
