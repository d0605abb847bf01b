"""Files for the service: named by their path where it runs on this machine, else sent to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from raymill.client.cli.output import say
from raymill.client.dataset_types import UPLOAD
from raymill.client.settings import LOOPBACK
from raymill.registry.sizes import size

if TYPE_CHECKING:
    from raymill.client.sdk import Raymill
    from raymill.client.uploading import Progress


def given(client: Raymill, path: Path, *, upload: bool) -> str:
    """What names `path` to the service; sends it first where the service is elsewhere, or `upload` says so."""
    if not upload and urlsplit(client.url).hostname in LOOPBACK:
        return str(path)
    with shown(path) as progress:
        sent = client.uploads.send(path, progress=progress)
    return f"{UPLOAD}{sent.id}"


@contextmanager
def shown(path: Path) -> Iterator[Progress]:
    """A bar on a terminal, one line at the end elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(path.name, total=path.stat().st_size)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    yield lambda _done, _total: None
    say(f"sent {path.name} ({size(path.stat().st_size)})")
