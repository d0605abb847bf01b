"""`raymill audit export` and `verify`, `raymill signing`, and `raymill model verify` without a service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.client.conftest import Reply, Seen, Service

from raymill.client.cli import main
from raymill.registry import audit_roots
from raymill.registry.artifacts import digest_files
from raymill.registry.audit_chain import Chain, line
from raymill.registry.signing import sign_statement
from raymill.registry.signing_keys import KeyRing

NAME = "model/triage/000000000001"


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def raymill(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process; the service is the scripted one."""
    monkeypatch.setenv("RAYMILL_URL", service.url)
    monkeypatch.setenv("RAYMILL_API_KEY", "rk-test")

    def call(*arguments: str) -> Done:
        code = main.run(list(arguments))
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path / "keys")
    ring.create_if_missing()
    return ring


@pytest.fixture
def log(service: Service, ring: KeyRing) -> list[str]:
    """A log of three rows, which the service hands out with a root of the first two."""
    import hashlib

    chain, lines = Chain(), []
    root = audit_roots.root_of(chain)
    for number in range(1, 4):
        content = b'{"action":"a.b","seq":%d}' % number
        hash_ = hashlib.sha256(chain.head + content).digest()
        chain.take(hash_)
        lines.append(line(content, hash_).decode())
        root = audit_roots.root_of(chain) if number == 2 else root
    envelope = audit_roots.sign_root(ring.signer(), root)

    def page(seen: Seen) -> Reply:
        after = int(seen.query["after"])
        return Reply(data={"lines": lines[after : after + 2]})

    service.on("POST", "/api/v1/audit/roots", Reply(status=201, data={"envelope": envelope}))
    service.on("GET", "/api/v1/audit/lines", page)
    return lines


def key_file(ring: KeyRing) -> str:
    return str(next(ring.directory.glob("*.pub")))


def test_an_exported_log_is_checked_without_the_service(
    raymill: Command, service: Service, log: list[str], ring: KeyRing, tmp_path: Path
) -> None:
    file, root = tmp_path / "log.jsonl", tmp_path / "log.jsonl.root.json"
    assert raymill("audit", "export", str(file)).out == f"2 rows; signed root in {root}\n"
    assert file.read_text() == "".join(log[:2])
    check = ["audit", "verify", "--root", str(root), "--key", key_file(ring)]
    assert raymill(*check).out.startswith("3 rows, whole; a signed root vouches for the first 2;")
    service.routes.clear()
    assert raymill(*check, "--log", str(file)).out.startswith(
        "2 rows, whole; a signed root vouches for the first 2"
    )
    file.write_text(log[0])
    cut = raymill(*check, "--log", str(file))
    assert (cut.code, "the log ends after row 1, a root was taken of 2 rows" in cut.err) == (1, True)
    assert raymill("audit", "verify", "--root", str(root)).code == 2


def test_signing_keys_are_listed_exported_and_revoked(
    raymill: Command, service: Service, ring: KeyRing, tmp_path: Path
) -> None:
    (known,) = ring.known()
    key: dict[str, Any] = {**vars(known), "created_at": known.created_at.isoformat()}
    service.on("GET", "/api/v1/signing/keys", Reply(data={"data": [key]}))
    revoked = {**key, "state": "revoked", "reason": "lost"}
    service.on("POST", f"/api/v1/signing/keys/{known.id[:9]}/revoke", Reply(data=revoked))
    assert f"{known.id[:12]}  ed25519" in raymill("signing", "list").out
    raymill("signing", "export", str(tmp_path / "out"))
    assert (tmp_path / "out" / f"{known.id}.pub").read_text() == known.public_key
    assert "is revoked" in raymill("signing", "revoke", known.id[:9], "--reason", "lost").out
    assert service.seen[-1].body == {"reason": "lost"}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (None, 0, "triage version 3: 1 artifacts are as they were registered, 1 signed"),
        (lambda folder: (folder / "config.json").write_text("[]"), 2, "config.json in artifact"),
        (lambda folder: (folder / "more").write_text(""), 2, "more was added"),
    ],
)
def test_a_version_is_verified_with_the_public_key_alone(
    raymill: Command,
    ring: KeyRing,
    tmp_path: Path,
    change: Callable[[Path], object] | None,
    code: int,
    message: str,
) -> None:
    directory = tmp_path / "store" / NAME
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    statement = tmp_path / "statement.json"
    claims = {"llm": "triage", "version": 3}
    statement.write_text(json.dumps(sign_statement(ring.signer(), digest_files(directory), claims, NAME)))
    if change is not None:
        change(directory)
    check = ["--attestation", str(statement), "--key", key_file(ring), "--store", str(tmp_path / "store")]
    done = raymill("model", "verify", "triage", *check)
    assert (done.code, message in done.out + done.err) == (code, True)
    other = raymill("model", "verify", "other", *check)
    assert (other.code, "is of triage 3: name a statement of other" in other.err) == (2, True)
