"""Which of Serve's applications are this service's. On a cluster that was joined others may run theirs beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.registry.tables import Llm

FACES = frozenset({"api", "gateway"})
"""What people talk to."""

VERSION = re.compile(r"llm-(?P<llm>.+)-\d+")


def application_name(llm: str, version: int) -> str:
    """Of the application that answers for a version."""
    return f"llm-{llm}-{version}"


def ours(session: Session, names: Iterable[str]) -> set[str]:
    """Those of `names` that are this service's: its faces, and versions of models that its registry knows."""
    found = {name: VERSION.fullmatch(name) for name in names}
    llms = {match["llm"] for match in found.values() if match is not None}
    known = set(session.scalars(select(Llm.name).where(Llm.name.in_(llms)))) if llms else set()
    return {
        name
        for name, match in found.items()
        if name in FACES or (match is not None and match["llm"] in known)
    }
