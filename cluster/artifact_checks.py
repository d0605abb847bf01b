"""The doctor's look at artifacts that lie at a URL: written, read, listed and deleted once, and room for copies."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

from raymill.cluster.checks import Check
from raymill.cluster.settings import Settings
from raymill.policies.errors import RaymillError
from raymill.registry.object_store import ObjectStore
from raymill.registry.sizes import size


def check_artifacts(settings: Settings) -> Iterator[Check]:
    """The store takes and gives; nothing where artifacts lie in the home."""
    store = settings.artifacts
    if not isinstance(store, ObjectStore):
        return
    try:
        store.objects.probe(f".doctor-{secrets.token_hex(8)}")
    except RaymillError as error:
        found, _, cure = str(error).partition(": ")
        yield Check("artifacts", "fail", found, cure)
    else:
        yield Check("artifacts", "ok", f"{store.objects.url} can be written and read")
    root = settings.cache_dir
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield Check("cache", "fail", f"{nearest} cannot be written", "run as its owner, or set RAYMILL_CACHE")
    else:
        yield Check("cache", "ok", f"{root} holds up to {size(settings.cache_bytes)} of copies")
