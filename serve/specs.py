"""What the registry says of a version that is to be served, as replicas are told it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid
from raymill.registry.catalog import adapter_of
from raymill.registry.promotion import attestation_of
from raymill.registry.signing import Unsigned
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import Artifact, Attestation, LlmVersion, Quantization
from raymill.serve.llm.adapters import Adapter, Keys
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.spec import DeploySpec, SharedBase


def version_spec(
    session: Session, settings: Settings, version: LlmVersion, config: ServeConfig, attempt: str
) -> DeploySpec:
    """Of a version that has an engine of its own. Raises Unsigned: nobody vouches for what is to be served."""
    name, gguf_file = version.artifact_name, None
    if config.quantization is not None:
        file = session.scalar(
            select(Quantization).where(
                Quantization.version_id == version.id, Quantization.type == config.quantization
            )
        )
        if file is None:
            section = "quantize" if config.engine == "llama_cpp" else "compress"
            raise Unsigned(
                f"{version.llm.name} {version.number} has nothing of type {config.quantization}: add it to `{section}`"
            )
        name = file.artifact_name
        gguf_file = file.file if config.engine == "llama_cpp" else None
    keys = keys_of(settings)
    return DeploySpec(
        name=version.llm.name,
        version=version.number,
        artifact=name,
        directory=settings.artifacts.place(name, session.get_one(Artifact, name).digest),
        envelope=_signed(session, name).envelope,
        public_keys=keys.public,
        revoked=dict(keys.revoked),
        config=config,
        gguf_file=gguf_file,
        attempt=attempt,
    )


def adapter_spec(session: Session, settings: Settings, version: LlmVersion) -> Adapter:
    """Of a version that is served as an adapter.

    Raises:
        Invalid: it has none.
        Unsigned: nobody vouches for it.
    """
    exact_name = f"{version.llm.name}@{version.number}"
    name = adapter_of(session, version)
    if name is None:
        raise Invalid(
            f"serve.lora serves adapters, and {exact_name} has none, all its weights were tuned: leave lora out, or "
            "train with train.lora"
        )
    return Adapter(
        name=exact_name,
        artifact=name,
        directory=settings.artifacts.place(name, session.get_one(Artifact, name).digest),
        envelope=_signed(session, name).envelope,
    )


def shared_spec(
    session: Session,
    settings: Settings,
    version_id: uuid.UUID,
    config: ServeConfig,
    application: str,
    adapters: Iterable[Adapter],
    attempt: str,
) -> DeploySpec:
    """Of an engine that holds the base of a version and serves these adapters of it."""
    base = session.get_one(Artifact, session.get_one(LlmVersion, version_id).base_artifact_name)
    keys = keys_of(settings)
    in_order = tuple(sorted(adapters, key=lambda adapter: adapter.name))
    return DeploySpec(
        name=base.name,
        version=0,
        artifact=base.name,
        directory=settings.artifacts.place(base.name, base.digest),
        envelope=None,
        public_keys=keys.public,
        revoked=dict(keys.revoked),
        config=config,
        shared=SharedBase(application=application, digest=base.digest, adapters=in_order),
        attempt=attempt,
    )


def keys_of(settings: Settings) -> Keys:
    ring = KeyRing(settings.signing_dir)
    return Keys(public=ring.public_keys(), revoked=ring.revoked())


def _signed(session: Session, artifact_name: str) -> Attestation:
    attestation = attestation_of(session, artifact_name)
    if attestation is None:
        raise Unsigned(f"{artifact_name} carries no signature: promote it again")
    return attestation
