"""Logins that this machine keeps: `session.json` in the home, 0600, by the service's address. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "session.json"


@dataclass(frozen=True, kw_only=True)
class StoredSession:
    """The tokens of a login."""

    account: str
    session_id: str
    access_token: str = field(repr=False)
    expires_at: float
    """Of the access token, in Unix seconds."""
    refresh_token: str = field(repr=False)


class SessionFile:
    """The logins by address. Whole or not there at all, whoever writes at once."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE

    def get(self, url: str) -> StoredSession | None:
        """None: there is no login for that address, or what is kept is damaged."""
        try:
            kept: dict[str, Any] = self._all()[url]
            return StoredSession(**kept)
        except (KeyError, TypeError):
            return None

    def put(self, url: str, session: StoredSession | None) -> None:
        """Keep a login, or with None forget it."""
        found = {name: each for name, each in self._all().items() if name != url}
        if session is not None:
            found[url] = asdict(session)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f"{FILE}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(found, file)
        fresh.replace(self.path)

    @contextlib.contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Whether nobody else on this machine is changing it; for as long as the block lasts."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f"{FILE}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _all(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
