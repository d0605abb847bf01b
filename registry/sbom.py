"""What made a version: the packages, Python and code of this process, as a CycloneDX 1.6 document, with licences.

It holds no time and no serial number, so the same environment gives the same bytes, and most versions share one row.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import re
from pathlib import Path

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from raymill.registry.artifacts import FileDigest, canonical_json, sha256_file, tree_digest
from raymill.registry.tables import JsonObject, LlmVersion, Sbom

ROOMS = ("policies", "registry", "cluster", "train", "tune", "evaluate", "serve", "client")
ROOT = Path(__file__).resolve().parents[1]
LICENSE_CHARACTERS = 64
"""Longer texts in the field `License` are licences themselves, not names of one."""


@functools.cache
def document() -> JsonObject:
    """The CycloneDX document of this process's environment. Takes half a second, once."""
    packages = {_name(each): each for each in importlib.metadata.distributions() if each.metadata["Name"]}
    ours = packages.pop("raymill", None)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "raymill",
                "version": ours.version if ours is not None else "0",
                "hashes": [{"alg": "SHA-256", "content": source_digest()}],
            }
        },
        "components": [
            {"type": "operating-system", "name": f"{platform.system()} {platform.machine()}"},
            {
                "type": "platform",
                "name": platform.python_implementation(),
                "version": platform.python_version(),
            },
            *(_component(name, packages[name]) for name in sorted(packages)),
        ],
    }


def source_digest() -> str:
    """Of Raymill's own code: sha256 over sorted `<sha256>  <path>` lines, one for each module."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return tree_digest(
        tuple(
            FileDigest(path=path.relative_to(ROOT).as_posix(), size_bytes=0, sha256=sha256_file(path))
            for path in files
        )
    )


def register(session: Session) -> str:
    """Keep this process's document. Returns its sha256."""
    made = document()
    digest = hashlib.sha256(canonical_json(made)).hexdigest()
    session.execute(insert(Sbom).values(digest=digest, document=made).on_conflict_do_nothing())
    return digest


def provenance(session: Session, version: LlmVersion) -> JsonObject:
    """What a signature says of the code and the environment that made a version; older ones have none on record."""
    row = session.get(Sbom, version.sbom_digest) if version.sbom_digest is not None else None
    if row is None:
        return {}
    code = row.document["metadata"]["component"]
    system, python, *packages = row.document["components"]
    return {
        "code": {
            "name": code["name"],
            "version": code["version"],
            "source_sha256": code["hashes"][0]["content"],
        },
        "environment": {
            "system": system["name"],
            "python": f"{python['name']} {python['version']}",
            "packages": len(packages),
            "sbom_sha256": row.digest,
        },
    }


def _component(name: str, package: importlib.metadata.Distribution) -> JsonObject:
    purl = f"pkg:pypi/{name}@{package.version}"
    found: JsonObject = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": package.version,
        "purl": purl,
    }
    if licenses := _licenses(package):
        found["licenses"] = licenses
    return found


def _licenses(package: importlib.metadata.Distribution) -> list[JsonObject]:
    """As the package's metadata tells: an SPDX expression, else a name, else its classifiers."""
    metadata = package.metadata
    if (expression := "License-Expression") in metadata:
        return [{"expression": metadata[expression]}]
    name = metadata["License"].strip() if "License" in metadata else ""
    if name and "\n" not in name and len(name) <= LICENSE_CHARACTERS and name != "UNKNOWN":
        return [{"license": {"name": name}}]
    told = [each for each in metadata.get_all("Classifier") or () if each.startswith("License ::")]
    names = sorted({each.rpartition(" :: ")[2] for each in told} - {"OSI Approved"})
    return [{"license": {"name": each}} for each in names]


def _name(package: importlib.metadata.Distribution) -> str:
    """Normal form of PEP 503."""
    return re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
