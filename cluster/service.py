"""What runs where: `service.json`, written by the supervisor, read by every other process."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raymill.cluster.settings import Settings
from raymill.policies.errors import NotFound

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_machine() -> str:
    """Its name and the run of its kernel: another machine may come to have the same name."""
    return f"{socket.gethostname()}/{BOOT_ID.read_text().strip() if BOOT_ID.exists() else ''}"


@dataclass(frozen=True, kw_only=True)
class Service:
    url: str
    """Of the one HTTP port."""

    ray_address: str
    """`host:port` of Ray's GCS."""

    dashboard_url: str
    supervisor_pid: int
    machine: str = field(default_factory=this_machine)
    """Where the supervisor runs; its process id means nothing elsewhere."""

    @property
    def is_here(self) -> bool:
        return self.machine == this_machine()


def read_service(settings: Settings) -> Service:
    """Raises NotFound when nothing was started under this home."""
    try:
        return Service(**json.loads(settings.service_file.read_text()))
    except FileNotFoundError:
        raise NotFound(f"no service runs under {settings.home}: start one with `raymill up`") from None


def write_service(settings: Settings, service: Service) -> None:
    """Atomically; a reader sees the old file or the new one."""
    write_atomically(settings.service_file, json.dumps(asdict(service), indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
