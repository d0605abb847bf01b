"""What made a version is on record and in what is signed."""

from __future__ import annotations

import base64
import hashlib
import json

from sqlalchemy import select
from tests.registry.making import World

from raymill.registry import sbom
from raymill.registry.artifacts import canonical_json
from raymill.registry.tables import Attestation, LlmVersion, Sbom


def test_the_document_is_cyclonedx_and_names_each_package_once_with_its_licence() -> None:
    document = sbom.document()
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    packages = {each["name"]: each for each in document["components"] if each["type"] == "library"}
    assert len(packages) == len(document["components"]) - 2
    assert packages["sqlalchemy"]["purl"] == f"pkg:pypi/sqlalchemy@{packages['sqlalchemy']['version']}"
    told = [each for each in packages.values() if "licenses" in each]
    assert len(told) > 0.9 * len(packages)


def test_the_code_is_known_by_what_it_says() -> None:
    code = sbom.document()["metadata"]["component"]
    assert code["hashes"][0]["content"] == sbom.source_digest()


def test_a_version_keeps_what_made_it_and_its_signature_says_so(world: World) -> None:
    for _ in range(2):
        world.promote(world.make_version())
    with world.database.transaction() as session:
        (row,) = session.scalars(select(Sbom)).all()
        assert {each.sbom_digest for each in session.scalars(select(LlmVersion))} == {row.digest}
        assert hashlib.sha256(canonical_json(row.document)).hexdigest() == row.digest
        envelope = session.scalars(select(Attestation.envelope)).first()
    assert envelope is not None
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    assert predicate["environment"]["sbom_sha256"] == row.digest
    assert predicate["code"]["source_sha256"] == sbom.source_digest()
    assert {"dataset", "base", "recipe", "run", "metrics"} <= predicate.keys()
