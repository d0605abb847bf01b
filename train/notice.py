"""A worker hears that its machine is about to be taken away: SIGTERM. Ray would end the process there and then.

Handlers of signals can only be set in a process's main thread, and Ray Train runs the training in another; so what sets up
the group of workers (`group.py`) does it.
"""

from __future__ import annotations

import os
import signal
import threading

GRACE_S = 25.0
"""What a machine that is taken away leaves at the least (30 s on most clouds); then the process ends anyhow."""

_TERMINATED = threading.Event()


def terminated() -> bool:
    """Whether this process was asked to go."""
    return _TERMINATED.is_set()


def heed() -> None:
    """Note SIGTERM, and go by oneself after `GRACE_S`. In the main thread."""

    def note(*_: object) -> None:
        if not _TERMINATED.is_set():
            _TERMINATED.set()
            last = threading.Timer(GRACE_S, os._exit, (128 + signal.SIGTERM,))
            last.daemon = True
            last.start()

    signal.signal(signal.SIGTERM, note)
