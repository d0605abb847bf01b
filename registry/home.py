"""Where Raymill keeps its state on one machine. Standard library only: the command line reads it too."""

from __future__ import annotations

import os
from pathlib import Path


def default_home() -> Path:
    """`RAYMILL_HOME`, else `/var/lib/raymill` for root and `~/.raymill` for everyone else.

    Root's own home is often 0700, and PostgreSQL, which refuses to run as root, could not enter it.
    """
    if configured := os.environ.get("RAYMILL_HOME"):
        return Path(configured).absolute()
    return Path("/var/lib/raymill") if os.geteuid() == 0 else Path.home() / ".raymill"
