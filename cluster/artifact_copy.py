"""`python -m raymill.cluster.artifact_copy`: bring the artifacts of a home to `RAYMILL_ARTIFACTS_URL`.

For a service that had its artifacts in its home before, and for one that was restored from a backup. What the URL holds
already is left as it is, so it may be killed and run again; the home keeps its files.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from sqlalchemy import select

from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, RaymillError
from raymill.registry.artifacts import ArtifactStore, digests_of, verify_files
from raymill.registry.database import Database
from raymill.registry.object_store import ObjectStore
from raymill.registry.sizes import size
from raymill.registry.tables import Artifact


class Copied(NamedTuple):
    artifacts: int
    size_bytes: int
    there: int
    """Artifacts that were there already."""


def copy_all(database: Database, source: ArtifactStore, store: ObjectStore) -> Copied:
    """Upload every registered artifact that `store` lacks.

    Raises:
        Tampered: one is not in `source` as it was registered; those before it are copied.
        Denied, NotFound, Unavailable: as any use of the store.
    """
    with database.transaction() as session:
        rows = session.execute(select(Artifact.name, Artifact.digest, Artifact.files)).all()
    artifacts = size_bytes = there = 0
    for name, digest, written in rows:
        files = digests_of(written)
        if store.holds(name, files):
            there += 1
            continue
        directory = source.path(name)
        verify_files(directory, files)
        store.objects.put(name, digest, directory, files)
        artifacts, size_bytes = artifacts + 1, size_bytes + sum(file.size_bytes for file in files)
    return Copied(artifacts, size_bytes, there)


def main() -> None:
    settings = Settings()
    store = settings.artifacts
    try:
        if not isinstance(store, ObjectStore):
            raise Invalid("RAYMILL_ARTIFACTS_URL is not set: it says where the artifacts are brought")
        embedded = settings.embedded_postgres
        if embedded is not None:
            embedded.ensure_running()
        done = copy_all(settings.open_database(), ArtifactStore(settings.home / "artifacts"), store)
    except RaymillError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    sys.stdout.write(
        f"{done.artifacts} artifacts ({size(done.size_bytes)}) copied to {store.objects.url}, {done.there} were there\n"
    )


if __name__ == "__main__":
    main()
