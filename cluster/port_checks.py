"""What to think of the sockets that a service listens on, by who can reach them."""

from __future__ import annotations

from collections.abc import Iterator

from raymill.cluster.checks import Check, State
from raymill.cluster.listeners import Listener, Reach, in_container, sends_only
from raymill.cluster.settings import Settings

CLOSED: tuple[Reach, ...] = ("machine", "group", "owner")
WHO: dict[Reach, str] = {
    "owner": "this user",
    "group": "this user's group",
    "machine": "this machine",
    "network": "this network",
    "everyone": "everyone",
}
PRIVATE = (
    "gcs_server",
    "raylet",
    "dashboard",
    "postgres",
    "ray::",
    "ray-",
    "ray.",
    "runtime_env",
    "log_monitor",
    "raymill.",
)
"""Of a process's title: what answers without asking who calls, or must be reached by nobody else. Processes of ours are
drivers of Ray, which listen as its workers do."""


def check_ports(settings: Settings, found: list[Listener]) -> Iterator[Check]:
    """A line for each socket that is open to more than it should be, and one for the others together."""
    judged = [judge_port(settings, listener) for listener in found]
    yield from (check for check in judged if check.state != "ok")
    well = [listener for listener, check in zip(found, judged, strict=True) if check.state == "ok"]
    opened = [
        f"{each.process} on {each.place}"
        for each in well
        if each.reach not in CLOSED and not sends_only(each)
    ]
    others = f"; for others: {', '.join(opened)}" if opened else ""
    closed = sum(1 for each in well if each.reach in CLOSED)
    yield Check("ports", "ok", f"{closed} sockets for this machine alone{others}")


def judge_port(settings: Settings, listener: Listener) -> Check:
    """Whether a socket of the service is open to those who need it and nobody else."""
    name = f"port {listener.port}" if listener.port is not None else "socket"
    found = f"{listener.process} on {listener.place}: {WHO[listener.reach]}"
    private = any(word in listener.process for word in PRIVATE)
    if listener.reach not in CLOSED:
        if in_container():
            found += ", and whom the container's host publishes it to"
        return _judge_open(settings, listener, name, found, private=private)
    if listener.protocol == "unix" and listener.reach == "machine":
        state: State = "fail" if private else "warn"
        return Check(
            name, state, f"{found} may connect", "keep it in a folder that is closed to others (0700)"
        )
    return Check(name, "ok", found)


def _judge_open(settings: Settings, listener: Listener, name: str, found: str, *, private: bool) -> Check:
    everyone = listener.reach == "everyone"
    if sends_only(listener):
        return Check(name, "ok", f"{found}; it is there to send")
    if private:
        # Nodes of a cluster that was joined must reach each other; what they say asks for Ray's token.
        if settings.address is not None and not everyone and listener.process != "postgres":
            cure = "keep that network private to Ray's nodes, with RAY_USE_TLS=1 (docs/tls.md)"
            return Check(name, "warn", found, cure)
        return Check(name, "fail", found, "close it with a firewall: who reaches it can run code here")
    if settings.tls_cert is not None and listener.port == settings.tls_port:
        return Check(name, "ok", f"{found}; it speaks TLS, and everything behind it asks for a key")
    if listener.port == settings.port:
        cure = "let loopback have this port, and others the one that speaks TLS (docs/tls.md)"
        found += "; everything asks for a key, but keys cross in clear"
    else:
        cure = "let a firewall close it: only the service itself needs it"
    return Check(name, "fail" if everyone else "warn", found, cure)


def table(settings: Settings, found: list[Listener]) -> str:
    """Every socket with who reaches it; empty where nothing listens."""
    if not found:
        return ""
    rows = [("STATE", "REACHED BY", "PROTOCOL", "ADDRESS", "PROCESS", "PID")]
    for each in found:
        state = judge_port(settings, each).state
        rows.append((state, WHO[each.reach], each.protocol, each.place, each.process, str(each.pid)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    seen = "as seen from inside this container" if in_container() else "firewalls apart"
    return f"\nWho can reach what, {seen}:\n" + "".join(f"{line.rstrip()}\n" for line in lines)
