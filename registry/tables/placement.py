"""What bounds running jobs beside their queue: quotas of teams, and the accelerators that the cluster has."""

from __future__ import annotations

import uuid

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from raymill.registry.tables.base import Base


class TeamQuota(Base):
    """What the running jobs of a team may hold together. NULL bounds nothing; a team without a row has no quota."""

    __tablename__ = "team_quota"
    __table_args__ = (
        CheckConstraint("max_running >= 0 AND max_gpus >= 0 AND max_cpus >= 0", name="not_negative"),
    )

    team_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("team.id"), primary_key=True)
    max_running: Mapped[int | None]  # jobs
    max_gpus: Mapped[int | None]
    max_cpus: Mapped[int | None]  # CPUs that jobs ask of Ray


class Accelerator(Base):
    """GPUs of one type, as the engine last saw them in Ray; `any` is the sum of all. A type that is gone has no row."""

    __tablename__ = "accelerator"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    gpus: Mapped[int]
    free: Mapped[int]
