"""What a replica is told: which bytes, who signed them, how to serve them. A version's own, or a base with adapters of it.

A spec is picklable and holds no secret. The replica calls `verify` before it reads a weight, on every
start and restart: what was signed is what is served, or nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymill.cluster.applications import application_name
from raymill.policies.errors import Invalid
from raymill.serve.llm.adapters import Adapter, Keys, verify_base
from raymill.serve.llm.config import ServeConfig

ENGINE = "engine"
"""Name of the deployment inside each application."""


@dataclass(frozen=True, kw_only=True)
class SharedBase:
    """A base, and the versions that one engine serves as adapters of it."""

    application: str
    digest: str
    """Of the base's files, as those who signed the adapters say it."""

    adapters: tuple[Adapter, ...]


@dataclass(frozen=True, kw_only=True)
class DeploySpec:
    name: str
    """The model's name, such as support-triage; a shared base's own."""

    version: int
    """0 for a shared base."""

    directory: Path
    """Where every node has the artifact: Hugging Face layout for vllm, GGUF files for llama_cpp. A replica sees to it
    that its own node does."""

    envelope: dict[str, Any] | None
    """The signed manifest (DSSE envelope as JSON); None: there is none, and nothing is served. A shared base needs none: its
    adapters' manifests tell its digest."""

    public_keys: tuple[str, ...]
    """PEM; a signature by any of them counts."""

    config: ServeConfig
    revoked: dict[str, str] = field(default_factory=dict)
    """Id of each key that counts no more -> why."""

    gguf_file: str | None = None
    """File inside `directory`, relative; for llama_cpp only."""

    artifact: str | None = None
    """Name that must have been signed, such as model/support-triage/0a1b2c3d4e5f; None takes the last
    three parts of `directory`, where a store keeps it."""

    shared: SharedBase | None = None
    """With `config.lora`: `directory` is a base's."""

    attempt: str = ""
    """Sets a new start apart from one of the same bytes and settings that has failed, which Serve would not try again."""

    def __post_init__(self) -> None:
        if (self.config.engine == "llama_cpp") != (self.gguf_file is not None):
            raise Invalid(
                f"engine {self.config.engine} with gguf_file {self.gguf_file!r}: llama_cpp needs one"
            )
        if (self.config.lora is not None) != (self.shared is not None):
            raise Invalid(
                f"{self.name} with lora {self.config.lora} and base {self.shared}: one needs the other"
            )
        if not self.public_keys:
            raise Invalid(f"no public key to verify {self.served_name} with: name the keys that may sign")

    @property
    def served_name(self) -> str:
        """The exact name that answers carry, such as support-triage@3; a shared base is never asked by its own."""
        return self.name if self.shared is not None else f"{self.name}@{self.version}"

    @property
    def application(self) -> str:
        """Name of the Serve application; one for each version, so two can serve while one replaces the other."""
        if self.shared is not None:
            return self.shared.application
        return application_name(self.name, self.version)

    @property
    def keys(self) -> Keys:
        return Keys(public=self.public_keys, revoked=self.revoked)

    def verify(self) -> None:
        """Have the artifact on this node until the process ends; check the signature, then every byte against it.

        Raises:
            NotFound, Unavailable: it cannot be brought here.
            Tampered: a file differs from what was signed, is missing or was added.
            Unsigned: there is no signature.
            Revoked: the key that signed it counts no more.
            Invalid: the manifest is of another artifact, or none of the keys signed it.
        """
        if self.shared is not None:
            verify_base(self.directory, self.shared.digest, self.shared.adapters, self.keys)
            return
        from raymill.cluster.settings import Settings
        from raymill.registry.artifact_access import checked
        from raymill.registry.signing import verify_directory

        store, name = Settings().artifacts, self.artifact or "/".join(self.directory.parts[-3:])
        directory, envelope, keys = store.here(self.directory), self.envelope, self.public_keys
        checked(
            store,
            directory,
            lambda: verify_directory(directory, envelope, keys, name=name, revoked=self.revoked),
        )
