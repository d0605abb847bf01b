"""Trials of a search: one training run each, with all that it told."""

from __future__ import annotations

import datetime as dt
import enum
import uuid

from sqlalchemy import ForeignKey, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from raymill.registry.tables.base import Base, JsonObject, enum_type


class TrialState(enum.StrEnum):
    RUNNING = "running"  # or waiting for its turn
    FINISHED = "finished"  # trained to its end
    STOPPED = "stopped"  # by the scheduler, for others did better
    FAILED = "failed"

    @property
    def over(self) -> bool:
        return self is not TrialState.RUNNING


class Trial(Base):
    """One trial of a `tune` job, written as it goes. What a search needs to go on after its driver died is here.

    Only the attempt that holds the job's lease writes it.
    """

    __tablename__ = "trial"

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # from 1
    config: Mapped[JsonObject]  # path -> value; with pbt the newest
    state: Mapped[TrialState] = mapped_column(enum_type(TrialState))
    steps: Mapped[int]
    total_steps: Mapped[int]
    metric: Mapped[float | None]  # at its last report
    reports: Mapped[list[JsonObject]]  # steps, validation_loss, final_loss, seconds
    copies: Mapped[list[JsonObject]]  # weights taken over from others: steps, trial
    seconds: Mapped[float]  # spent on steps and reports, over all attempts
    checkpoint: Mapped[str | None] = mapped_column(Text)  # below the job's work directory
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[dt.datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=func.clock_timestamp())
