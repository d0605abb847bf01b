"""What Serve's applications are called, and which are this service's. On a cluster that was joined others may run theirs
beside them.

A version has an application of its own, or, with `lora` in its settings, one together with all adapters of the same base
that are served with the same settings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from raymill.registry.tables import Artifact, Deployment, JsonObject, Llm, LlmVersion

FACES = frozenset({"api", "gateway"})
"""What people talk to."""

VERSION = re.compile(r"llm-(?P<llm>.+)-\d+")
SHARED = re.compile(r"lora-(?P<base>[0-9a-f]{12})-[0-9a-f]{8}")


def application_name(llm: str, version: int) -> str:
    """Of the application that answers for a version alone."""
    return f"llm-{llm}-{version}"


def shares_engine(config: JsonObject) -> bool:
    """Whether these settings have a version served as an adapter of its base, on an engine that it shares."""
    return config.get("lora") is not None


def application_for(session: Session, version: LlmVersion, config: JsonObject) -> str:
    """Of the application that answers for a version with these settings."""
    if not shares_engine(config):
        return application_name(version.llm.name, version.number)
    # By content: each recipe imports its base under a name of its own.
    base = session.get_one(Artifact, version.base_artifact_name).digest
    settings = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return f"lora-{base[:12]}-{settings[:8]}"


def answering_application(session: Session, row: Deployment) -> str | None:
    """Of the application that answers for a deployment now, also while another is being started; None: none does."""
    if row.serving_version_id is None:
        return None
    if row.serving_application is not None:
        return row.serving_application
    return application_for(session, session.get_one(LlmVersion, row.serving_version_id), row.config)


def ours(session: Session, names: Iterable[str]) -> set[str]:
    """Those of `names` that are this service's: its faces, and engines of models and bases that its registry knows."""
    names = set(names)
    models = {name: match["llm"] for name in names if (match := VERSION.fullmatch(name))}
    bases = {name: match["base"] for name in names if (match := SHARED.fullmatch(name))}
    known = set(session.scalars(select(Llm.name).where(Llm.name.in_(models.values())))) if models else set()
    if bases:
        short = func.left(Artifact.digest, 12)
        known |= set(session.scalars(select(short).where(short.in_(bases.values()))))
    return (names & FACES) | {name for name, of in (models | bases).items() if of in known}
