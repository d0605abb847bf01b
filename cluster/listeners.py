"""Where processes listen, and who can reach them there: TCP, UDP, and Unix sockets.

Read from the kernel's tables, as seen from the network namespace of this process. What a container's host publishes,
a firewall closes or a router forwards does not stand there. Knows nothing of services.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

Protocol = Literal["tcp", "udp", "unix"]
Reach = Literal["owner", "group", "machine", "network", "everyone"]
"""From the fewest to the most: this user, its group, whoever is on this machine, whoever is on a private network of
it, whoever has a route to a public address of it."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ACCEPTS = 0x10000
"""`__SO_ACCEPTCON` in the flags of /proc/net/unix: somebody called `listen`."""

DATAGRAM = "0002"
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))


class Listener(NamedTuple):
    """A socket that waits for others."""

    protocol: Protocol
    address: str
    """An IP address, or a Unix socket's path; `@name` where it has none in the file system."""

    port: int | None
    """None for a Unix socket."""

    process: str
    pid: int
    reach: Reach

    @property
    def place(self) -> str:
        """As people write it."""
        if self.port is None:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def listeners(processes: Iterable[psutil.Process]) -> list[Listener]:
    """What these processes listen on, the most reachable first. A socket that several share is told once."""
    ours = machine_addresses()
    unix = _unix_sockets()
    found: dict[tuple[str, str, int | None], Listener] = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            title = title_of(process)
            for each in (*_inet(process, title, ours), *_unix(process, title, unix)):
                found.setdefault((each.protocol, each.address, each.port), each)
    order: tuple[Reach, ...] = ("everyone", "network", "machine", "group", "owner")
    return sorted(found.values(), key=lambda each: (order.index(each.reach), each.process, each.place))


def reach_of(address: str, ours: Iterable[Address]) -> Reach:
    """Who can send to a socket that is bound to `address` on a machine with the addresses `ours`."""
    bound = _plain(ipaddress.ip_address(address))
    if bound.is_loopback:
        return "machine"
    # `::` takes IPv4 as well, unless the process said otherwise, which the kernel's tables do not tell.
    at = list(ours) if bound.is_unspecified else [bound]
    if any(each.is_global for each in at):
        return "everyone"
    return "network" if any(not each.is_loopback for each in at) else "machine"


def machine_addresses() -> list[Address]:
    """Of all interfaces that are up."""
    up = {name for name, about in psutil.net_if_stats().items() if about.isup}
    return [
        _plain(ipaddress.ip_address(each.address.partition("%")[0]))
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6)
    ]


def reach_of_path(path: Path) -> Reach:
    """Who can connect to a Unix socket: who may write to it and enter every folder above."""
    try:
        enter = [folder.stat().st_mode for folder in path.parents]
    except OSError:  # closed to us, or gone
        return "owner"
    try:
        connect = path.stat().st_mode
    except OSError:  # renamed since it was bound, as HAProxy does: its folders alone are known
        connect = stat.S_IWOTH
    if connect & stat.S_IWOTH and all(mode & stat.S_IXOTH for mode in enter):
        return "machine"
    if connect & stat.S_IWGRP and all(mode & (stat.S_IXGRP | stat.S_IXOTH) for mode in enter):
        return "group"
    return "owner"


def in_container() -> bool:
    """Whether this process sees a container's network and not its machine's."""
    marked = any(mark.exists() for mark in CONTAINER_MARKS)
    return marked or "KUBERNETES_SERVICE_HOST" in os.environ or "container" in os.environ


def sends_only(listener: Listener) -> bool:
    """Whether a UDP socket has a port that the kernel chose: nobody who looks for a server knows it."""
    if listener.protocol != "udp" or listener.port is None:
        return False
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return False
    return int(first) <= listener.port <= int(last)


def title_of(process: psutil.Process) -> str:
    """What a person calls a process: its program, or the module or script that Python runs."""
    command = process.cmdline()
    if not command:
        return process.name()
    if command[0].startswith("ray::"):
        return command[0].split()[0]
    if not Path(command[0]).name.startswith("python"):
        return Path(command[0]).name
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1]
    scripts = [part for part in command[1:] if part.endswith(".py")]
    if not scripts:
        return process.name()
    inside = scripts[0].partition("/site-packages/")[2] or Path(scripts[0]).name
    return "ray-" + inside.removeprefix("ray/") if inside.startswith("ray/") else inside


def _plain(address: Address) -> Address:
    """::ffff:127.0.0.1 is loopback, which Python 3.11 does not say."""
    return getattr(address, "ipv4_mapped", None) or address


def _inet(process: psutil.Process, title: str, ours: list[Address]) -> Iterator[Listener]:
    for each in process.net_connections(kind="inet"):
        tcp = each.type == socket.SOCK_STREAM
        waits = each.status == psutil.CONN_LISTEN if tcp else not each.raddr
        if waits and each.laddr:
            reach = reach_of(each.laddr.ip, ours)
            yield Listener("tcp" if tcp else "udp", each.laddr.ip, each.laddr.port, title, process.pid, reach)


def _unix(process: psutil.Process, title: str, sockets: dict[str, str]) -> Iterator[Listener]:
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir() if sockets else ():
        with suppress(OSError):  # closed meanwhile
            target = str(descriptor.readlink())
            name = sockets.get(target.removeprefix("socket:[").rstrip("]"))
            if target.startswith("socket:[") and name is not None:
                # A name outside the file system has no permissions: whoever is on the machine may connect.
                reach = "machine" if name.startswith("@") else reach_of_path(Path(name))
                yield Listener("unix", name, None, title, process.pid, reach)


def _unix_sockets() -> dict[str, str]:
    """Inode -> name of every Unix socket that waits for others; none where the kernel has no such table."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    except OSError:
        return {}
    found = {}
    for line in lines:
        parts = line.split(maxsplit=7)
        if len(parts) == 8 and (int(parts[3], 16) & ACCEPTS or parts[4] == DATAGRAM):
            found[parts[6]] = parts[7]
    return found
