"""The console's built files, handed out below `/console` to a browser: no data, so nobody is asked who they are.

Its pages are one document; which one is shown, scripts decide by the address. Names in `assets/` hold a hash of
their content, so they are kept for ever, and the document is asked for each time. Nothing is loaded from elsewhere,
and nothing inline runs. A proxy that puts a path in front says so (`x-forwarded-prefix`).
"""

from __future__ import annotations

import re
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

PREFIX = "/console"
DIST = Path(__file__).resolve().parent / "dist"
BASE = '<base href="/console/"'
"""As the build writes it."""

FORWARDED = re.compile(r"(/[A-Za-z0-9._~-]+){1,8}")
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        "font-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
FOR_EVER = "public, max-age=31536000, immutable"

UNBUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Raymill</title>
<h1>The console is not built</h1>
<p>The service runs; its web pages are made by one command, which takes Node 20.19 or newer:</p>
<pre>make console</pre>
<p>Then load this page again. All that the console does, <code>raymill</code> does in a terminal.</p>
</html>
"""


class Site:
    """An ASGI application to mount at `PREFIX`."""

    def __init__(self, directory: Path = DIST) -> None:
        self._directory = directory.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response:
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            return PlainTextResponse("the console's files are read with GET", 405, {"allow": "GET, HEAD"})
        told = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
        prefix = told if FORWARDED.fullmatch(told) else ""
        path = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(PREFIX)
        if path == "":
            return RedirectResponse(f"{prefix}{PREFIX}/", 308)
        try:
            file = (self._directory / path.lstrip("/")).resolve()
            there = file.is_relative_to(self._directory) and file.is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if path != "/" and there and file.suffix != ".html":
            kept = FOR_EVER if path.startswith("/assets/") else HEADERS["cache-control"]
            return FileResponse(file, headers={**HEADERS, "cache-control": kept})
        if path.startswith("/assets/"):
            return PlainTextResponse("no such file: load the page again", 404)
        return self._document(prefix)

    def _document(self, prefix: str) -> Response:
        try:
            text = (self._directory / "index.html").read_text()
        except FileNotFoundError:
            return HTMLResponse(UNBUILT, headers=HEADERS)
        return HTMLResponse(text.replace(BASE, f'<base href="{prefix}{PREFIX}/"'), headers=HEADERS)
