"""Holds a version's files against its signed statements with the public key alone: no service is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from raymill.client.cli.given import text_of
from raymill.policies.errors import Invalid, RaymillError


def save(attestations: Sequence[dict[str, object]], folder: Path) -> list[Path]:
    """The newest signed statement over each artifact, as files that `verify` reads."""
    newest = {str(each["artifact_name"]): each["envelope"] for each in attestations}
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, envelope in newest.items():
            file = folder / f"{name.replace('/', '-')}.dsse.json"
            file.write_text(json.dumps(envelope) + "\n")
            files.append(file)
    except OSError as error:
        raise RaymillError(f"{folder} cannot be written ({error.strerror}): name another folder") from error
    return files


def verify(
    name: str,
    number: int | None,
    statements: Sequence[Path],
    keys: Sequence[Path],
    store: Path | None,
) -> list[dict[str, object]]:
    """Check each signature, then every byte of the artifact that it speaks of.

    Args:
        number: when given, the statements must be of this version.
        store: folder with `<kind>/<name>/<address>` in it; where the service keeps its artifacts by default.

    Returns:
        name, files, key_id and version of each artifact.

    Raises:
        Tampered, Unsigned, Invalid: as `registry.signing.verify_envelope`, a file differs, or a statement is of another model.
    """
    from raymill.cluster.settings import Settings
    from raymill.registry.artifacts import ArtifactStore
    from raymill.registry.signing import verify_envelope

    if not keys:
        raise Invalid("--attestation needs --key: a public key, as `raymill signing export` writes it")
    public_keys = [text_of(path, "name a public key in PEM") for path in keys]
    artifacts = ArtifactStore(store) if store is not None else Settings().artifacts
    found: list[dict[str, object]] = []
    for path in statements:
        try:
            envelope = json.loads(text_of(path, "name a file that `raymill model attest` wrote"))
        except ValueError as error:
            raise Invalid(f"{path} is no JSON: name a file that `raymill model attest` wrote") from error
        if not isinstance(envelope, dict):
            raise Invalid(f"{path} is no envelope: name a file that `raymill model attest` wrote")
        said = verify_envelope(envelope, public_keys)
        version = said.predicate.get("version")
        if said.predicate.get("llm") != name or (number is not None and version != number):
            raise Invalid(
                f"{path} is of {said.predicate.get('llm')} {version}: name a statement of {name}"
                + (f" {number}" if number is not None else "")
            )
        artifacts.verify(said.name, said.subjects)
        found.append(
            {
                "name": said.name,
                "files": len(said.subjects),
                "key_id": said.key_id,
                "version": version,
            }
        )
    return found
