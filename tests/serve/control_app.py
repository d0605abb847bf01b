"""The control plane's application for tests: its routes are made once, what it answers from is each test's own."""

from __future__ import annotations

from fastapi import FastAPI

from raymill.serve.api.app import create_app, hold
from raymill.serve.api.context import Parts

_APPS: list[FastAPI] = []


def app_of(parts: Parts) -> FastAPI:
    """The one application of this process; it answers from `parts` until the next call."""
    if not _APPS:
        _APPS.append(create_app(parts))
    hold(_APPS[0], parts)
    return _APPS[0]
