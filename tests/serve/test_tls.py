"""The control plane behind the TLS listener: the clients, a WebSocket, a renewed certificate, what is refused."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from cryptography import x509
from fastapi import FastAPI
from tests.registry.making import World
from tests.serve.control_lab import WS, key, kinds
from tests.serve.listening import listening
from websockets.sync.client import connect

from raymill.client.retry import Retry
from raymill.client.sdk import AsyncRaymill, Raymill
from raymill.cluster import tls
from raymill.cluster.front import Front
from raymill.cluster.ray_head import free_ports
from raymill.cluster.settings import FRONT_HEADER, Settings
from raymill.cluster.tls_checks import check_tls
from raymill.policies.errors import Invalid, Unavailable
from raymill.registry.database import Database

__all__ = ["key", "kinds"]  # fixtures


class Behind(NamedTuple):
    """The control plane, as others see it."""

    url: str
    plain_url: str
    made: tls.Made
    front: Front
    port: int


@pytest.fixture
def behind(app: FastAPI, world: World, tmp_path: Path) -> Iterator[Behind]:
    folder = Path(tempfile.mkdtemp())
    (port,) = free_ports(1)
    with listening(app) as url:
        made = tls.make(tmp_path / "tls", ["localhost"])
        front = Front(
            cert=made.cert,
            key=made.key,
            host="127.0.0.1",
            port=port,
            service=url.removeprefix("http://"),
            front_key=Settings(home=world.home).front_key,
            folder=folder / "tls",
            log_file=tmp_path / "tls.log",
        )
        front.start()
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Behind(f"https://localhost:{port}", url, made, front, port)
        front.stop()
    shutil.rmtree(folder)


def serial(port: int, ca: Path) -> int:
    """Of the certificate that a client sees."""
    context = ssl.create_default_context(cafile=ca)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as shaken,
    ):
        seen = shaken.getpeercert(binary_form=True)
    assert seen is not None
    return x509.load_der_x509_certificate(seen).serial_number


def test_every_client_speaks_tls_with_an_authority_of_ones_own(
    behind: Behind, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = Retry(attempts=1)
    # Nobody knows this authority: said at once, and no outage that would be waited for.
    with (
        Raymill(behind.url, key, retry=patience) as stranger,
        pytest.raises(Invalid, match="RAYMILL_CA_FILE"),
    ):
        stranger.sessions.whoami()
    monkeypatch.setenv("RAYMILL_CA_FILE", str(behind.made.authority))
    with Raymill(behind.url, key, retry=patience) as client:
        assert client.sessions.whoami().account == "operator"
        # The certificate names localhost, not the address.
        numeric = Raymill(behind.url.replace("localhost", "127.0.0.1"), key, retry=patience)
        with numeric, pytest.raises(Invalid, match="is not taken"):
            numeric.sessions.whoami()

    async def ask() -> str:
        client = AsyncRaymill(behind.url, key, retry=patience)
        try:
            return (await client.sessions.whoami()).account
        finally:
            await client.close()

    assert asyncio.run(ask()) == "operator"
    done = subprocess.run(
        [sys.executable, "-m", "raymill.client.cli.main", "whoami", "--json"],
        env={**os.environ, "RAYMILL_URL": behind.url, "RAYMILL_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["account"]) == (0, "operator")
    context = ssl.create_default_context(cafile=behind.made.authority)
    socket_url = behind.url.replace("https", "wss") + WS
    with connect(socket_url, ssl=context, additional_headers={"authorization": f"Bearer {key}"}) as connected:
        assert json.loads(connected.recv(timeout=30)) == {"type": "ready"}


def test_what_a_client_says_of_its_address_is_not_believed_and_tls_is_told(
    behind: Behind, key: str, world: World
) -> None:
    context = ssl.create_default_context(cafile=behind.made.authority)
    forged = {"authorization": f"Bearer {key}", "x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "http"}
    # From another address than the listener's own, which the service sees on its connection.
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.9", verify=context, trust_env=False)
    with httpx.Client(transport=elsewhere, base_url=behind.url, headers=forged) as client:
        answer = client.post("/api/v1/jobs", json={"kind": "greet"})
    assert answer.is_success
    assert answer.headers["strict-transport-security"]
    for secret in ("", "guessed"):  # on the plain port nobody is believed
        headers = {**forged, FRONT_HEADER: secret}
        url = f"{behind.plain_url}/api/v1/jobs"
        assert httpx.post(url, json={"kind": "greet"}, headers=headers, trust_env=False).is_success
    with world.database.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT address FROM audit_event WHERE action = 'job.submit' ORDER BY seq"
        )
        assert [str(row[0]) for row in rows] == ["127.0.0.9", "127.0.0.1", "127.0.0.1"]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_and_clear_text_are_refused(behind: Behind) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", behind.port)) as plain,
        pytest.raises(OSError, match=r"SSL|reset"),
    ):
        old.wrap_socket(plain)
    with pytest.raises(httpx.TransportError):
        httpx.get(behind.url.replace("https", "http"), trust_env=False)


def test_a_renewed_certificate_is_taken_and_what_runs_goes_on(behind: Behind, key: str) -> None:
    made = behind.made
    first = serial(behind.port, made.authority)
    context = ssl.create_default_context(cafile=made.authority)
    socket_url = behind.url.replace("https", "wss") + WS
    with connect(socket_url, ssl=context, additional_headers={"authorization": f"Bearer {key}"}) as held:
        assert json.loads(held.recv(timeout=30)) == {"type": "ready"}
        # Half of it: the old one answers on.
        kept = made.key.read_text()
        made.key.write_text(tls.make(made.cert.parent.parent / "other", ["localhost"]).key.read_text())
        behind.front.tend()
        assert serial(behind.port, made.authority) == first
        made.key.write_text(kept)
        tls.make(made.cert.parent, ["localhost"])
        behind.front.tend()
        deadline = time.monotonic() + 30
        while serial(behind.port, made.authority) == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        held.send('{"type": "ping"}')
        assert json.loads(held.recv(timeout=30)) == {"type": "pong"}
    assert tls.read_pair(made.cert, made.key)[0].serial_number == serial(behind.port, made.authority)


def test_the_doctor_sees_what_is_wrong_with_a_certificate(behind: Behind, tmp_path: Path) -> None:
    made = behind.made

    def said(**environment: str) -> list[tuple[str, str]]:
        settings = Settings(
            home=tmp_path, tls_cert=made.cert, tls_key=made.key, tls_host="127.0.0.1", tls_port=behind.port
        )
        return [
            (each.state, each.found) for each in check_tls(settings, running=True, environment=environment)
        ]

    ((state, found),) = said(RAYMILL_CA_FILE=str(made.authority))
    assert state == "ok"
    assert "answers with it (TLSv1.3)" in found
    other = tls.make(tmp_path / "other", ["localhost"])
    ((state, found),) = said(RAYMILL_CA_FILE=str(other.authority))
    assert (state, "does not vouch for it" in found) == ("fail", True)
    made.key.chmod(0o640)
    assert ("fail", f"{made.key} has mode 0640: others may read it") in said()
    made.key.chmod(0o600)
    tls.make(made.cert.parent, ["elsewhere.example"], days=10)
    (soon, name) = said()
    assert (soon[0], "expires" in soon[1]) == ("warn", True)
    assert (name[0], f"{made.cert} is for elsewhere.example; this machine is called" in name[1]) == (
        "warn",
        True,
    )
    tls.make(made.cert.parent, ["localhost"], days=0)
    ((state, found),) = said()
    assert (state, f"expired {dt.datetime.now(dt.UTC):%Y-}" in found) == (
        "fail",
        True,
    )
    made.key.write_text(other.key.read_text())
    ((state, found),) = said()
    assert (state, "is not the key of the first certificate" in found) == ("fail", True)
    ray = said(RAY_USE_TLS="1", RAY_TLS_SERVER_CERT=str(other.cert), RAY_TLS_SERVER_KEY=str(other.key))[-1]
    assert ray == ("fail", "RAY_USE_TLS is set, RAY_TLS_CA_CERT not")


def test_a_database_that_must_show_a_certificate_is_asked_for_it(world: World, tmp_path: Path) -> None:
    clear = world.database.url.set(query={"sslmode": "verify-full"}).render_as_string(hide_password=False)
    asked = Database(clear)
    with pytest.raises(Unavailable):
        asked.patiently(lambda session: session.connection(), timeout_s=0)
    with pytest.raises(Unavailable):
        asked.hold().run(lambda _: None, timeout_s=0)
    asked.close()

    def said(query: str) -> list[str]:
        url = f"postgresql://raymill@db.example/raymill{query}"
        settings = Settings.model_validate({"home": tmp_path, "database_url": url})
        return [each.state for each in check_tls(settings, running=False, environment={})]

    assert (said(""), said("?sslmode=require"), said("?sslmode=verify-full")) == (
        ["ok", "warn"],
        ["ok", "warn"],
        ["ok", "ok"],
    )


def test_the_command_makes_what_the_service_and_its_clients_need(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raymill.client.cli.main", "tls", "make", "--name", "mill.example"]
    environment = {**os.environ, "RAYMILL_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    files = {path.name: path for path in (tmp_path / "tls").iterdir()}
    assert f"RAYMILL_TLS_CERT={files['server.pem']} RAYMILL_TLS_KEY={files['server.key']}" in done.stdout
    assert f"https://mill.example:8443 RAYMILL_CA_FILE={files['ca.pem']}" in done.stdout
    assert {files[name].stat().st_mode & 0o777 for name in ("server.key", "ca.key")} == {0o600}
    (first,) = tls.read_pair(files["server.pem"], files["server.key"])
    assert {"mill.example", "localhost", "127.0.0.1"} <= set(tls.names_of(first))
    tls.make(tmp_path / "tls", ["mill.example"])  # a renewal, by the same authority
    (second,) = tls.read_pair(files["server.pem"], files["server.key"])
    assert second.serial_number != first.serial_number
    for each in (first, second):
        each.verify_directly_issued_by(tls.read_certificates(files["ca.pem"])[0])
    with pytest.raises(ValueError, match="belong together"):
        Settings(home=tmp_path, tls_cert=files["server.pem"])
    pair: dict[str, Any] = {"home": tmp_path, "tls_cert": files["server.pem"], "tls_key": files["server.key"]}
    for host in ("0.0.0.0", "::", "mill.example"):
        with pytest.raises(ValueError, match="with TLS the plain port stays on loopback"):
            Settings(host=host, **pair)
    hosts = [Settings(host=host, **pair).http_host for host in ("127.0.0.1", "::1", "localhost")]
    assert hosts == ["127.0.0.1", "::1", "localhost"]
    assert Settings(address="head:6379", **pair).http_host == "127.0.0.1"
    assert Settings(address="head:6379", home=tmp_path).http_host == "0.0.0.0"
