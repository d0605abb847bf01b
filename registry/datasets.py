"""Registered data sets: finding them, and what a registered one stands for in a pipeline."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import NotFound
from raymill.registry.tables import Dataset, JsonObject


def find(session: Session, name: str, number: int | None = None) -> Dataset:
    """A version of a data set, the newest when `number` is None.

    Raises:
        NotFound: naming what there is.
    """
    rows = select(Dataset).where(Dataset.name == name).order_by(Dataset.number.desc())
    if number is not None:
        rows = rows.where(Dataset.number == number)
    row = session.scalar(rows.limit(1))
    if row is None:
        newest = session.scalar(
            select(Dataset.number).where(Dataset.name == name).order_by(Dataset.number.desc())
        )
        there = f"its newest is {newest}" if newest else "`raymill dataset list` shows the ones there are"
        wanted = f"no version {number} of data set {name!r}" if number else f"no data set {name!r}"
        raise NotFound(f"{wanted}: {there}")
    return row


def result_of(row: Dataset) -> JsonObject:
    """What the step that made it left behind: a registered set stands for that step."""
    return {
        "digest": row.digest,
        "artifact": row.artifact_name,
        "dataset_id": str(row.id),
        "name": row.name,
        "number": row.number,
        "train_rows": row.train_rows,
        "test_rows": row.test_rows,
        "format": row.format,
        "shape": row.shape,
    }


def evaluation_sets(session: Session, *, but: str) -> list[JsonObject]:
    """What training rows must keep away from: the held-out rows of every registered set that is not called `but`.

    Of the versions of a set each counts, the oldest first.
    """
    rows = select(Dataset).where(Dataset.test_rows > 0, Dataset.name != but)
    return [
        {"name": row.name, "number": row.number, "artifact": row.artifact_name}
        for row in session.scalars(rows.order_by(Dataset.name, Dataset.number))
    ]
