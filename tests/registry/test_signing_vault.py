"""Signing in Vault, against a stand-in that speaks the transit engine's HTTP and holds the private keys itself."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from raymill.policies.errors import Unavailable
from raymill.registry.artifacts import FileDigest
from raymill.registry.signing import Revoked, sign_statement, verify_envelope
from raymill.registry.signing_keys import KeyRing

FILE = FileDigest(path="a", size_bytes=1, sha256="00" * 32)


class Transit:
    """A key called `raymill`; each version has a private half."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.versions: list[Any] = []
        self.rotate()

    def rotate(self) -> None:
        ed25519 = self.kind == "ed25519"
        self.versions.append(
            Ed25519PrivateKey.generate() if ed25519 else ec.generate_private_key(ec.SECP256R1())
        )

    def describe(self) -> dict[str, Any]:
        keys = {}
        for number, key in enumerate(self.versions, 1):
            public = key.public_key()
            if self.kind == "ed25519":
                shown = base64.b64encode(public.public_bytes_raw()).decode()
            else:
                shown = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
            keys[str(number)] = {"public_key": shown}
        return {"type": self.kind, "latest_version": len(self.versions), "keys": keys}

    def sign(self, body: dict[str, Any]) -> dict[str, Any]:
        key, payload = self.versions[body["key_version"] - 1], base64.b64decode(body["input"])
        made = key.sign(payload) if self.kind == "ed25519" else key.sign(payload, ec.ECDSA(hashes.SHA256()))
        return {"signature": f"vault:v{body['key_version']}:{base64.b64encode(made).decode()}"}


@pytest.fixture(params=["ed25519", "ecdsa-p256"])
def ring(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyRing]:
    transit = Transit(request.param)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
            allowed = self.headers["x-vault-token"] == "s.1"
            match self.command, self.path:
                case _ if not allowed:
                    self.answer(403, {"errors": ["permission denied"]})
                case "GET", "/v1/transit/keys/raymill":
                    self.answer(200, {"data": transit.describe()})
                case "POST", "/v1/transit/keys/raymill/rotate":
                    transit.rotate()
                    self.answer(200, {"data": None})
                case "POST", "/v1/transit/sign/raymill":
                    self.answer(200, {"data": transit.sign(body)})
                case _:
                    self.answer(404, {"errors": []})

        do_POST = do_GET

        def answer(self, status: int, data: dict[str, Any]) -> None:
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    (tmp_path / "token").write_text("s.1\n")
    ring = KeyRing(tmp_path / "keys")
    ring.directory.mkdir(mode=0o700)
    where = {
        "address": f"http://127.0.0.1:{server.server_port}",
        "key": "raymill",
        "token_file": str(tmp_path / "token"),
    }
    ring.vault_file.write_text(json.dumps(where))
    yield ring
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_vault_signed_verifies_with_the_public_key_alone_after_a_rotation_and_not_after_a_revocation(
    ring: KeyRing, tmp_path: Path
) -> None:
    old = ring.create_if_missing()
    assert not ring.private_file.exists()
    envelope = sign_statement(ring.signer(), (FILE,), {}, "model/a/b")
    new = ring.rotate()
    assert new != old
    assert verify_envelope(envelope, ring.public_keys()).key_id == old
    later = sign_statement(ring.signer(), (FILE,), {}, "model/a/b")
    assert verify_envelope(later, [(ring.directory / f"{new}.pub").read_text()]).key_id == new
    assert {key.id: key.state for key in ring.known()} == {old: "retired", new: "signing"}
    ring.revoke(new, reason="lost", by="ada")
    assert ring.key_id() not in {old, new}
    with pytest.raises(Revoked):
        verify_envelope(later, ring.public_keys(), revoked=ring.revoked())
    (tmp_path / "token").write_text("s.2")
    with pytest.raises(Unavailable, match=r"Vault does not sign .*403"):
        ring.signer()
