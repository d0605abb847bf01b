"""Adapters that an engine serves on one base: which bytes, who signed them, whether vLLM can add them to that base.

What was signed of an adapter names the base that it was trained on, by its digest: the base is verified by that, so it
needs no signature of its own. Imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid
from raymill.registry.artifact_access import checked
from raymill.registry.artifacts import Tampered, digest_files, tree_digest
from raymill.registry.signing import Statement, Unsigned, verify_directory, verify_envelope
from raymill.serve.llm.config import HIGHEST_RANK, LoraServing, max_rank_for

CONFIG = "adapter_config.json"
MERGED = "or leave serve.lora out: the version is then served merged"
UNSUPPORTED = {
    "use_dora": "is DoRA",
    "modules_to_save": "has modules that were trained whole",
    "rank_pattern": "has other ranks for some modules",
    "alpha_pattern": "has other scales for some modules",
}
"""Settings of PEFT that vLLM refuses, or would read wrongly without a word."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Whose signatures count."""

    public: tuple[str, ...]
    """PEM."""

    revoked: Mapping[str, str]
    """Id of each key that counts no more -> why."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A version that is served as an adapter."""

    name: str
    """The exact name that requests and answers carry, such as support-triage@3."""

    artifact: str
    """Name that must have been signed, such as adapter/support-triage/0a1b2c3d4e5f."""

    directory: Path
    """Where every node has it, in PEFT's layout."""

    envelope: dict[str, Any]
    """The signed manifest (DSSE envelope as JSON)."""

    def to_json(self) -> dict[str, Any]:
        """As Serve hands it to replicas."""
        return {
            "name": self.name,
            "artifact": self.artifact,
            "directory": str(self.directory),
            "envelope": self.envelope,
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Adapter:
        return cls(**{**data, "directory": Path(data["directory"])})

    def verify(self, base_digest: str, keys: Keys, lora: LoraServing) -> None:
        """Have it on this node until the process ends; check the signature, every byte, the base, and vLLM's limits.

        Raises:
            NotFound, Unavailable: it cannot be brought here.
            Tampered, Unsigned, Revoked: as `verify_directory`.
            Invalid: none of the keys signed it, it was trained on another base, or vLLM cannot serve it so.
        """
        store = Settings().artifacts
        directory = store.here(self.directory)
        statement = checked(
            store,
            directory,
            lambda: verify_directory(
                directory, self.envelope, keys.public, name=self.artifact, revoked=keys.revoked
            ),
        )
        if (trained_on := base_of(statement)) != base_digest:
            raise Invalid(
                f"{self.name} was trained on base {trained_on[:12]}, and this engine holds {base_digest[:12]}: "
                "promote the version again"
            )
        check_servable(self.name, directory, lora)


def base_of(statement: Statement) -> str:
    """Digest of the base that a version was trained on. Raises Unsigned: what was signed does not tell it."""
    try:
        digest: str = statement.predicate["base"]["digest"]
    except (KeyError, TypeError) as error:
        raise Unsigned(
            f"what was signed of {statement.name} names no base: promote the version again"
        ) from error
    return digest


def verify_base(directory: Path, digest: str, adapters: Sequence[Adapter], keys: Keys) -> None:
    """Have a base on this node until the process ends; every byte must be what the adapters' signatures say of it.

    Raises:
        NotFound, Unavailable: it cannot be brought here.
        Tampered: the bytes are others.
        Unsigned, Revoked, Invalid: none of the adapters vouches for it; the error is the last one's.
    """
    refused: Exception = Unsigned(f"no adapter vouches for base {directory.name}: promote a version of it")
    for adapter in adapters:
        try:
            signed = base_of(
                verify_envelope(adapter.envelope, keys.public, name=adapter.artifact, revoked=keys.revoked)
            )
        except Invalid as error:
            refused = error
            continue
        if signed == digest:
            break
        refused = Invalid(f"{adapter.name} was trained on base {signed[:12]}, not on {digest[:12]}")
    else:
        raise refused
    store = Settings().artifacts
    here = store.here(directory)

    def check() -> None:
        found = tree_digest(digest_files(here))
        if found != digest:
            raise Tampered(
                f"base {here.name} has digest {found[:12]}, {digest[:12]} was signed: restore it from a backup"
            )

    checked(store, here, check)


def check_servable(name: str, directory: Path, lora: LoraServing) -> None:
    """Raises Invalid: vLLM cannot serve this adapter, or not with these settings."""
    config: dict[str, Any] = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            raise Invalid(
                f"{name} {what} ({key}), which vLLM does not serve as an adapter: train it without, {MERGED}"
            )
    if config.get("bias", "none") != "none":
        raise Invalid(
            f"{name} has biases ({config['bias']}), which vLLM does not serve in an adapter: train it without, {MERGED}"
        )
    rank = int(config["r"])
    if rank > lora.max_rank:
        fits = max_rank_for(rank)
        cure = f"set it to {fits}" if fits else f"vLLM serves at most {HIGHEST_RANK}"
        raise Invalid(
            f"{name} has rank {rank}, which is greater than serve.lora.max_rank {lora.max_rank}: {cure}, {MERGED}"
        )
