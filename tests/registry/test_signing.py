"""Signed manifests: what is signed verifies, and nothing else does."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import multiprocessing
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import FileDigest, Tampered, digest_files
from raymill.registry.signing import (
    Revoked,
    Statement,
    sign_statement,
    verify_directory,
    verify_envelope,
)
from raymill.registry.signing_keys import KeyRing

NAME = "model/support-triage/0a1b2c3d4e5f"
CLAIMS = {"llm": "support-triage", "version": 3, "metrics": {"heldout_exact_match": 0.97}, "größe": "ü"}


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path / "keys")
    ring.create_if_missing()
    return ring


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "0a1b2c3d4e5f"
    (directory / "sub").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "sub" / "größe.json").write_text("{}")
    return directory


def signed(ring: KeyRing, model: Path) -> dict[str, Any]:
    return sign_statement(ring.signer(), digest_files(model), CLAIMS, NAME)


def payload(envelope: dict[str, Any]) -> dict[str, Any]:
    statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return statement


def resigned(ring: KeyRing, **changed: object) -> dict[str, Any]:
    """An envelope with a good signature over a statement that we would not write."""
    file = {"name": "a", "digest": {"sha256": "00" * 32}, "annotations": {"size_bytes": 1}}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [file],
        "predicateType": "https://raymill.dev/version/v1",
        "predicate": {"name": NAME},
    } | changed
    envelope = Envelope(json.dumps(statement).encode(), "application/vnd.in-toto+json", {})
    envelope.sign(ring.signer())
    done: dict[str, Any] = envelope.to_dict()
    return done


def test_what_was_signed_verifies_and_comes_back(ring: KeyRing, model: Path) -> None:
    envelope = json.loads(json.dumps(signed(ring, model)))  # as it comes out of the database
    before = copy.deepcopy(envelope)
    statement = verify_directory(model, envelope, ring.public_keys(), name=NAME)
    assert statement == Statement(
        name=NAME, subjects=digest_files(model), predicate={**CLAIMS, "name": NAME}, key_id=ring.key_id()
    )
    assert envelope == before
    assert signed(ring, model) == envelope


def test_the_envelope_is_dsse_around_an_in_toto_statement(ring: KeyRing, model: Path) -> None:
    envelope = signed(ring, model)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert [signature["keyid"] for signature in envelope["signatures"]] == [ring.key_id()]
    statement = payload(envelope)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://raymill.dev/version/v1"
    assert statement["subject"][0] == {
        "name": "model.safetensors",
        "digest": {"sha256": hashlib.sha256(b"weights").hexdigest()},
        "annotations": {"size_bytes": 7},
    }


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_it_too(ring: KeyRing, model: Path, tmp_path: Path) -> None:
    envelope = signed(ring, model)
    body, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    (tmp_path / "signed").write_bytes(b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body))
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    public = ring.directory / f"{ring.key_id()}.pub"
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    verify += ["-in", str(tmp_path / "signed"), "-sigfile", str(tmp_path / "signature")]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    der = ["openssl", "pkey", "-pubin", "-in", str(public), "-outform", "DER"]
    done = subprocess.run(der, capture_output=True, check=True)
    assert hashlib.sha256(done.stdout).hexdigest() == ring.key_id()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: (model / "model.safetensors").write_bytes(b"Weights"),
            "model.safetensors in artifact",
        ),
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda model: (model / "extra.bin").write_bytes(b""), "extra.bin was added"),
        (shutil.rmtree, "0a1b2c3d4e5f is missing"),
    ],
)
def test_changed_bytes_are_named(ring: KeyRing, model: Path, change: Any, message: str) -> None:
    envelope = signed(ring, model)
    change(model)
    with pytest.raises(Tampered, match=message):
        verify_directory(model, envelope, ring.public_keys())


def test_a_changed_payload_is_tampered_with(ring: KeyRing, model: Path) -> None:
    envelope = signed(ring, model)
    statement = payload(envelope)
    statement["predicate"]["metrics"]["heldout_exact_match"] = 0.99
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    with pytest.raises(Tampered, match=rf"signature by key {ring.key_id()[:12]} does not fit"):
        verify_envelope(envelope, ring.public_keys())


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_flipped_bit_of_payload_or_signature_verifies(ring: KeyRing, data: st.DataObject) -> None:
    envelope = resigned(ring)
    part = data.draw(st.sampled_from(["payload", "sig"]))
    where = envelope if part == "payload" else envelope["signatures"][0]
    content = bytearray(base64.b64decode(where[part]))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    where[part] = base64.b64encode(content).decode()
    with pytest.raises(Tampered):
        verify_envelope(envelope, ring.public_keys())


def test_a_strangers_signature_is_refused_with_the_keys_id(
    ring: KeyRing, model: Path, tmp_path: Path
) -> None:
    stranger = KeyRing(tmp_path / "other")
    stranger.create_if_missing()
    envelope = signed(stranger, model)
    with pytest.raises(Invalid, match=rf"signed by {stranger.key_id()[:12]}, none of the 1 known keys"):
        verify_directory(model, envelope, ring.public_keys())
    with pytest.raises(Invalid, match="none of the 0 known keys"):
        verify_envelope(envelope, ())
    # A stranger who borrows our key's id signs no better.
    envelope["signatures"][0]["keyid"] = ring.key_id()
    with pytest.raises(Tampered):
        verify_envelope(envelope, ring.public_keys())


def test_a_good_signature_does_not_cover_up_for_a_bad_one(ring: KeyRing, model: Path) -> None:
    old = signed(ring, model)
    ring.rotate()
    both = signed(ring, model)
    both["signatures"].append(old["signatures"][0])
    assert verify_envelope(both, ring.public_keys()).name == NAME
    both["signatures"][1]["sig"] = both["signatures"][0]["sig"]
    with pytest.raises(Tampered):
        verify_envelope(both, ring.public_keys())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"payloadType": "text/plain"}, "payloadType is 'text/plain', only application/vnd.in-toto"),
        ({"payloadType": None}, "payloadType is None"),
        ({"payload": "***"}, "no DSSE envelope"),
        ({"payload": None}, "no DSSE envelope"),
        ({"signatures": None}, "no DSSE envelope"),
        ({"signatures": [{"keyid": "a"}]}, "no DSSE envelope"),
        ({"signatures": []}, "carries no signature: promote the version again"),
    ],
)
def test_what_is_no_envelope_is_told(ring: KeyRing, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        verify_envelope(resigned(ring) | changed, ring.public_keys())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "only https://raymill.dev/version/v1 is read"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "manifest is a https://slsa.dev/provenance/v1"),
        ({"predicate": {}}, "lacks 'name'"),
        ({"subject": [{"name": "a"}]}, "lacks 'annotations'"),
        (
            {
                "subject": [
                    {"name": "../etc", "digest": {"sha256": ""}, "annotations": {"size_bytes": 0}},
                ]
            },
            r"names \.\./etc, which lies outside",
        ),
    ],
)
def test_a_well_signed_statement_of_another_kind_is_refused(
    ring: KeyRing, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        verify_envelope(resigned(ring, **changed), ring.public_keys())


def test_a_manifest_of_another_artifact_is_refused(ring: KeyRing, model: Path) -> None:
    with pytest.raises(Invalid, match=f"manifest is of {NAME}, not of model/other/000000000000"):
        verify_directory(model, signed(ring, model), ring.public_keys(), name="model/other/000000000000")


def test_nothing_twice_nothing_empty_and_no_nan_is_signed(ring: KeyRing) -> None:
    file = FileDigest(path="a", size_bytes=1, sha256="00" * 32)
    with pytest.raises(Invalid, match="has no files"):
        sign_statement(ring.signer(), (), {}, NAME)
    with pytest.raises(Invalid, match="the same file twice"):
        sign_statement(ring.signer(), (file, file), {}, NAME)
    with pytest.raises(Invalid, match="is not JSON"):
        sign_statement(ring.signer(), (file,), {"loss": float("nan")}, NAME)


# --- the key folder --------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "state" / "keys")
    with pytest.raises(NotFound, match=r"no signing key at .*signing\.key"):
        ring.signer()
    key_id = ring.create_if_missing()
    assert ring.create_if_missing() == key_id == ring.key_id()
    modes = {path.name: path.stat().st_mode & 0o777 for path in ring.directory.iterdir()}
    assert modes == {"signing.key": 0o600, f"{key_id}.pub": 0o644, "lock": modes["lock"]}
    assert ring.directory.stat().st_mode & 0o777 == 0o700


def make_key(directory: str) -> str:
    return KeyRing(Path(directory)).create_if_missing()


def test_processes_that_make_the_key_at_once_agree_on_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        made = pool.map(make_key, [str(tmp_path / "keys")] * 6, chunksize=1)
    assert len(set(made)) == 1
    assert len(KeyRing(tmp_path / "keys").public_keys()) == 1


def test_what_an_old_key_signed_stays_valid_after_a_rotation(ring: KeyRing, model: Path) -> None:
    envelope, old = signed(ring, model), ring.key_id()
    new = ring.rotate()
    assert new != old
    assert isinstance(ring.signer(), CryptoSigner)
    assert verify_directory(model, envelope, ring.public_keys()).key_id == old
    assert verify_directory(model, signed(ring, model), ring.public_keys()).key_id == new
    assert len(ring.public_keys()) == 2


def test_what_a_p256_key_signed_verifies_and_openssls_id_is_its_id(ring: KeyRing, model: Path) -> None:
    old = signed(ring, model)
    new = ring.rotate("ecdsa-p256")
    assert verify_directory(model, signed(ring, model), ring.public_keys()).key_id == new
    assert verify_directory(model, old, ring.public_keys())
    assert [(key.algorithm, key.state) for key in ring.known()] == [
        ("ed25519", "retired"),
        ("ecdsa-p256", "signing"),
    ]


def test_what_a_revoked_key_signed_counts_no_more_unless_another_key_signed_it_too(
    ring: KeyRing, model: Path
) -> None:
    envelope, old = signed(ring, model), ring.key_id()
    with pytest.raises(NotFound, match="no signing key 'zz'"):
        ring.revoke("zz", reason="lost", by="ada")
    assert ring.revoke(old[:10], reason="the laptop was stolen", by="ada").state == "revoked"
    assert ring.key_id() != old
    refused = pytest.raises(
        Revoked, match=rf"key {old[:12]}, which was revoked \(the laptop was stolen; .* by ada\)"
    )
    with refused:
        verify_directory(model, envelope, ring.public_keys(), revoked=ring.revoked())
    with refused:  # also where a verifier still holds its public half
        verify_envelope(
            envelope, [(ring.directory / f"{old}.pub").read_text()], revoked=KeyRing(ring.directory).revoked()
        )
    envelope["signatures"] += signed(ring, model)["signatures"]
    assert verify_envelope(envelope, ring.public_keys(), revoked=ring.revoked()).key_id == ring.key_id()
    (ring.directory / f"{old}.revoked").write_text("")  # a damaged note revokes all the same
    assert "damaged" in ring.revoked()[old]


def test_a_key_that_others_may_read_or_that_is_none_is_refused(ring: KeyRing) -> None:
    ring.private_file.chmod(0o640)
    with pytest.raises(Invalid, match="has mode 0640, others may read it: chmod 600"):
        ring.signer()
    ring.private_file.write_text("nonsense")
    ring.private_file.chmod(0o600)
    with pytest.raises(Invalid, match="holds no private key"):
        ring.signer()
    with pytest.raises(Invalid, match="no PEM public key"):
        verify_envelope(resigned_elsewhere(ring), ["nonsense"])


def resigned_elsewhere(ring: KeyRing) -> dict[str, Any]:
    other = KeyRing(ring.directory / "other")
    other.create_if_missing()
    return resigned(other)
