"""What `raymill doctor` says of certificates: the listener's, Ray's, and whether the database is asked for one."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from raymill.cluster import tls
from raymill.cluster.checks import Check
from raymill.cluster.settings import Settings
from raymill.cluster.tls_make import own_names
from raymill.policies.errors import RaymillError
from raymill.registry.database import normal_url

EXPIRES_SOON = dt.timedelta(days=14)
TIMEOUT_S = 5.0
RENEW = "renew it: `raymill tls make`, or as you got it; the service takes the new one by itself"
LOCAL = {"", "127.0.0.1", "::1", "localhost"}
VERIFYING = {"verify-ca", "verify-full"}


def check_tls(
    settings: Settings, *, running: bool, environment: Mapping[str, str] = os.environ
) -> Iterator[Check]:
    """The certificate that others see: whole, in time, for a name of this machine, its key closed, and in use."""
    if settings.tls_cert is None or settings.tls_key is None:
        yield Check(
            "tls", "ok", "no certificate is set: this machine alone reaches the service, unless a proxy does"
        )
    else:
        yield from _judge(settings, settings.tls_cert, settings.tls_key, environment, running=running)
    yield from _check_ray(environment)
    yield from _check_database(settings)


def judge_files(name: str, cert: Path, key: Path, *, renew: str = RENEW) -> Iterator[Check]:
    """What is wrong with a certificate's files; nothing when nothing is."""
    try:
        chain = tls.read_pair(cert, key)
    except RaymillError as error:
        yield Check(name, "fail", str(error), renew)
        return
    now = dt.datetime.now(dt.UTC)
    for each in chain:
        subject = each.subject.rfc4514_string()
        if each.not_valid_after_utc < now:
            yield Check(
                name, "fail", f"{subject} in {cert} expired {each.not_valid_after_utc:%Y-%m-%d %H:%M}", renew
            )
        elif each.not_valid_before_utc > now:
            found = f"{subject} in {cert} holds from {each.not_valid_before_utc:%Y-%m-%d %H:%M} on"
            yield Check(name, "fail", found, "see that the clock is right")
        elif each.not_valid_after_utc < now + EXPIRES_SOON:
            yield Check(
                name, "warn", f"{subject} in {cert} expires {each.not_valid_after_utc:%Y-%m-%d %H:%M}", renew
            )
    mode = key.stat().st_mode & 0o777
    if mode & 0o077:
        yield Check(
            name, "fail", f"{key} has mode {mode:04o}: others may read it", f"chmod 600 {key}, then renew it"
        )


def _judge(
    settings: Settings, cert: Path, key: Path, environment: Mapping[str, str], *, running: bool
) -> Iterator[Check]:
    found = list(judge_files("tls", cert, key))
    yield from found
    if any(check.state == "fail" for check in found):
        return
    certificate = tls.read_pair(cert, key)[0]
    names = tls.names_of(certificate)
    called = [host for host in (urlsplit(environment.get("RAYMILL_URL", "")).hostname,) if host] + own_names()
    if not any(tls.covers(certificate, name) for name in called):
        said = f"{cert} is for {', '.join(names) or 'no name at all'}; this machine is called {', '.join(called)}"
        cure = "`raymill tls make --name NAME`, or see that clients use a name that it is for"
        yield Check("tls", "warn" if names else "fail", said, cure)
        return
    said = f"for {', '.join(names)} until {certificate.not_valid_after_utc:%Y-%m-%d}"
    if running:
        yield _check_listener(settings, certificate, environment.get("RAYMILL_CA_FILE"), said)
    elif not found:
        yield Check("tls", "ok", said)


def _check_listener(
    settings: Settings, certificate: x509.Certificate, ca_file: str | None, said: str
) -> Check:
    """Shake hands as a client does, and see whose certificate comes."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.tls_host, settings.tls_host)
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if ca_file is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((here, settings.tls_port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=tls.names_of(certificate)[0]) as shaken,
        ):
            seen, version = shaken.getpeercert(binary_form=True), shaken.version()
    except ssl.SSLCertVerificationError as error:
        cure = "give clients the certificate of the authority that signed it"
        return Check("tls", "fail", f"{ca_file} does not vouch for it: {error.verify_message}", cure)
    except OSError as error:
        found = f"nobody speaks TLS at {here}:{settings.tls_port}: {error}"
        return Check("tls", "fail", found, f"read {settings.logs_dir / 'tls.log'}")
    if seen is None or x509.load_der_x509_certificate(seen) != certificate:
        found = f"port {settings.tls_port} still shows another certificate than {settings.tls_cert}"
        return Check("tls", "warn", found, f"read {settings.logs_dir / 'supervisor.log'}")
    return Check("tls", "ok", f"{said}; port {settings.tls_port} answers with it ({version})")


def _check_ray(environment: Mapping[str, str]) -> Iterator[Check]:
    """What Ray's processes say to each other, where `RAY_USE_TLS` is set."""
    if environment.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        yield Check(
            "ray-tls", "fail", f"RAY_USE_TLS is set, {', '.join(missing)} not", "set all three on every node"
        )
        return
    cert, key, _ = (Path(environment[name]) for name in names)
    found = list(judge_files("ray-tls", cert, key, renew="renew it and start Ray again: it reads it once"))
    yield from found or [Check("ray-tls", "ok", f"Ray's processes ask each other for certificates ({cert})")]


def _check_database(settings: Settings) -> Iterator[Check]:
    if settings.database_url is None:
        return
    url = normal_url(settings.database_url.get_secret_value())
    host = url.host or str(url.query.get("host", ""))
    mode = url.query.get("sslmode", os.environ.get("PGSSLMODE", "prefer"))
    if host in LOCAL or host.startswith("/"):
        return
    if mode in VERIFYING:
        yield Check("database-tls", "ok", f"{host} must show a certificate ({mode})")
    else:
        cure = "add ?sslmode=verify-full&sslrootcert=FILE to DATABASE_URL"
        yield Check("database-tls", "warn", f"whoever answers for {host} is believed (sslmode {mode})", cure)
