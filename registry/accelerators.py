"""GPUs of the cluster by type: told by the engine, read by claims and by whoever asks why a job waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from raymill.registry.placement_config import ANY
from raymill.registry.tables import Accelerator


class Gpus(NamedTuple):
    there: int
    free: int


def tell(session: Session, found: Mapping[str, Gpus]) -> None:
    """Replace what was known by `found`, by type, the sum of all (`any`) among them. Writes only what differs."""
    known = {row.name: Gpus(row.gpus, row.free) for row in session.scalars(select(Accelerator))}
    for name in known.keys() - found.keys():
        session.execute(delete(Accelerator).where(Accelerator.name == name))
    for name, gpus in sorted(found.items()):
        if known.get(name) == gpus:
            continue
        values = {"gpus": gpus.there, "free": gpus.free}
        session.execute(
            insert(Accelerator)
            .values(name=name, **values)
            .on_conflict_do_update(index_elements=[Accelerator.name], set_=values)
        )


def known(session: Session) -> int:
    """GPUs of the whole cluster, when the engine last looked."""
    row = session.get(Accelerator, ANY)
    return row.gpus if row is not None else 0
