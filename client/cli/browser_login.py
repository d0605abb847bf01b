"""A login in the browser, whose answer comes to a port of this machine (RFC 8252, section 7.3)."""

from __future__ import annotations

import time
import webbrowser
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from raymill.client.cli.output import say
from raymill.policies.errors import Denied

if TYPE_CHECKING:
    from raymill.client.identity_types import Tokens
    from raymill.client.sdk import Raymill

WAIT_S = 300.0
DONE = b"<!doctype html><title>Raymill</title><p>You may close this window and go back to the terminal."


class Listener(HTTPServer):
    """Hears one answer, on a free port of the loopback interface."""

    answer: dict[str, str] | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.timeout = 1.0
        self.redirect_uri = f"http://127.0.0.1:{self.server_port}/callback"

    def wait(self, state: str) -> dict[str, str]:
        """The answer to the login with `state`; others, which somebody else may have sent, are passed over.

        Raises:
            Denied: none came in time, or the provider said no.
        """
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            self.handle_request()
            answer, self.answer = self.answer, None
            if answer is None or answer.get("state") != state:
                continue
            if "code" not in answer:
                raise Denied(f"the identity provider refused ({answer.get('error', 'no code')}): begin again")
            return answer
        raise Denied(f"nobody logged in within {WAIT_S:.0f} s: begin again")


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    timeout = 5.0

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path != "/callback":
            self.send_error(404)
            return
        self.server.answer = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(DONE)

    def log_message(self, *_: object) -> None:
        """Says nothing: the answer holds a code."""


def by_browser(client: Raymill) -> Tokens:
    """Raises Denied."""
    with Listener() as listener:
        started = client.sessions.start_oidc(listener.redirect_uri)
        say(f"log in in the browser; if none opens, go to:\n{started.url}")
        webbrowser.open(started.url)
        answer = listener.wait(started.state)
    return client.sessions.finish_oidc(started.state, answer["code"], answer.get("iss"))
