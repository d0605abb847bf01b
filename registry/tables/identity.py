"""Who may do what: teams, accounts and their API keys."""

from __future__ import annotations

import datetime as dt
import enum
import uuid

from sqlalchemy import ForeignKey, String
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship

from raymill.registry.tables.base import Base, CreatedAt, Id, JsonObject, Name, enum_type


class Role(enum.StrEnum):
    """Each may do all that the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


class Team(Base):
    """Accounts that share limits and budgets."""

    __tablename__ = "team"

    id: Mapped[Id]
    name: Mapped[Name] = mapped_column(String(64), unique=True)
    disabled_at: Mapped[dt.datetime | None]
    created_at: Mapped[CreatedAt]


class Account(Base):
    """A person or a service. Never deleted, only disabled: the audit log names it."""

    __tablename__ = "account"

    id: Mapped[Id]
    name: Mapped[Name] = mapped_column(String(64), unique=True)
    role: Mapped[Role] = mapped_column(enum_type(Role))
    team_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("team.id"), index=True)
    tier: Mapped[str] = mapped_column(
        ForeignKey("tier.name"), default="enterprise", server_default="enterprise"
    )
    limits: Mapped[JsonObject] = mapped_column(
        default=dict, server_default="{}"
    )  # override the tier's, by the same names
    disabled_at: Mapped[dt.datetime | None]
    created_at: Mapped[CreatedAt]

    team: Mapped[Team | None] = relationship(lazy="joined")


class ApiKey(Base):
    """A bearer key. Only its sha256 is kept; 256 random bits need no slow hash."""

    __tablename__ = "api_key"

    id: Mapped[Id]
    account_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("account.id"), index=True)
    name: Mapped[Name]
    prefix: Mapped[str] = mapped_column(String(16))  # shown in lists, so that a person can tell keys apart
    key_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(
        ARRAY(String(16)), default=list, server_default="{}"
    )  # what it may be used for: gateway, read, write; none given: everything that its account may
    used_at: Mapped[
        dt.datetime | None
    ]  # of late, by the control plane; the gateway's records tell of its own
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]
    created_at: Mapped[CreatedAt]

    account: Mapped[Account] = relationship(lazy="joined", innerjoin=True)
