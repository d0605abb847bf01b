"""What a replica does not serve, and how it says so: nothing is imported or started for that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.registry.making import World

from raymill.policies.errors import Invalid
from raymill.registry import deployments
from raymill.registry.artifacts import Tampered, digest_files
from raymill.registry.signing import Revoked, Unsigned, sign_statement
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import Deployment, DeploymentState, LlmVersion
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.spec import DeploySpec

NAME = "model/triage/000000000001"


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path / "keys")
    ring.create_if_missing()
    return ring


@pytest.fixture
def spec(tmp_path: Path, ring: KeyRing) -> DeploySpec:
    directory = tmp_path / NAME
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(bytes(100_000))
    (directory / "config.json").write_text("{}")
    envelope = sign_statement(ring.signer(), digest_files(directory), {}, NAME)
    return DeploySpec(
        name="triage",
        version=1,
        directory=directory,
        envelope=envelope,
        public_keys=ring.public_keys(),
        config=ServeConfig(),
    )


def flip(directory: Path) -> None:
    file = directory / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[70_000] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip, r"model\.safetensors in artifact 000000000001 has sha256 .* was signed"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json was added"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (shutil.rmtree, "000000000001 is missing"),
    ],
)
def test_other_bytes_than_were_signed(
    spec: DeploySpec, change: Callable[[Path], object], message: str
) -> None:
    spec.verify()
    change(spec.directory)
    with pytest.raises(Tampered, match=message):
        spec.verify()


def test_no_signature_a_strangers_or_one_by_a_revoked_key(
    spec: DeploySpec, ring: KeyRing, tmp_path: Path
) -> None:
    assert spec.envelope is not None
    for unsigned in (None, {**spec.envelope, "signatures": []}):
        with pytest.raises(Unsigned, match="carries no signature: promote the version again"):
            replace(spec, envelope=unsigned).verify()
    stranger = KeyRing(tmp_path / "other")
    stranger.create_if_missing()
    with pytest.raises(Invalid, match="none of the 1 known keys"):
        replace(spec, public_keys=stranger.public_keys()).verify()
    old = ring.key_id()
    ring.revoke(old, reason="lost", by="ada")
    with pytest.raises(Revoked, match=rf"key {old[:12]}, which was revoked \(lost; "):
        replace(spec, public_keys=ring.public_keys(), revoked=ring.revoked()).verify()


def test_revoking_a_key_takes_its_version_back_until_it_is_promoted_again(world: World) -> None:
    world.promote(world.make_version())
    world.serve()
    ring = KeyRing(world.keys_dir)
    with world.database.transaction() as session:
        version = session.scalars(select(LlmVersion)).one()
        deployments.report(session, version.llm_id, "production", DeploymentState.READY, version.id, "")

    def row() -> Deployment:
        with world.database.transaction() as session:
            return session.scalars(select(Deployment)).one()

    assert row().serving_version_id is not None
    with world.database.transaction() as session:
        assert deployments.withdraw(session, ring.revoked()) == {}
    old = ring.key_id()
    ring.revoke(old, reason="lost", by="ada")
    for _ in range(2):
        with world.database.transaction() as session:
            (message,) = deployments.withdraw(session, ring.revoked()).values()
    assert f"signed by key {old[:12]}, which was revoked (lost;" in message
    taken = row()
    assert (taken.state, taken.message) == (DeploymentState.FAILED, message)
    assert (taken.serving_version_id, taken.version_id) == (None, None)
    world.promote(1)
    with world.database.transaction() as session:
        assert deployments.withdraw(session, ring.revoked()) == {}
