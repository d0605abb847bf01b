"""How accounts log in: passwords, sessions and their spent tokens, attempts, identities elsewhere."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from raymill.registry.tables.base import Base, CreatedAt, Digest, Id
from raymill.registry.tables.identity import Account


class Password(Base):
    """An account's password, as Argon2id in PHC format; an account without a row has none."""

    __tablename__ = "password"

    account_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("account.id"), primary_key=True)
    phc: Mapped[str] = mapped_column(String(200))
    changed_at: Mapped[CreatedAt]


class LoginSession(Base):
    """A login. It ends at `expires_at` at the latest; one refresh token opens it at a time."""

    __tablename__ = "login_session"

    id: Mapped[Id]
    account_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("account.id"), index=True)
    method: Mapped[str] = mapped_column(String(16))  # password or oidc
    address: Mapped[str | None] = mapped_column(String(64))
    refresh_sha256: Mapped[Digest] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]
    used_at: Mapped[CreatedAt]  # when it was last refreshed
    expires_at: Mapped[dt.datetime] = mapped_column(index=True)
    revoked_at: Mapped[dt.datetime | None]

    account: Mapped[Account] = relationship(lazy="joined", innerjoin=True)


class SpentRefresh(Base):
    """A refresh token that was traded for the next one. Whoever shows it again has a copy."""

    __tablename__ = "spent_refresh"

    refresh_sha256: Mapped[Digest] = mapped_column(primary_key=True)
    session_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("login_session.id", ondelete="CASCADE"), index=True
    )


class LoginAttempts(Base):
    """Attempts to log in of late, by account or by address, of which only a hash is kept."""

    __tablename__ = "login_attempts"

    subject: Mapped[Digest] = mapped_column(primary_key=True)
    count: Mapped[int]  # since the last success, or the last quiet window
    last_at: Mapped[dt.datetime] = mapped_column(index=True)
    locked_until: Mapped[dt.datetime | None]


class OidcLogin(Base):
    """A login that is under way at the identity provider. Taken once."""

    __tablename__ = "oidc_login"

    state_sha256: Mapped[Digest] = mapped_column(primary_key=True)
    nonce: Mapped[str] = mapped_column(String(64))
    verifier: Mapped[str] = mapped_column(String(128))
    redirect_uri: Mapped[str] = mapped_column(String(200))
    expires_at: Mapped[dt.datetime] = mapped_column(index=True)


class ExternalIdentity(Base):
    """Who an account is at an identity provider: its issuer, and the subject there."""

    __tablename__ = "external_identity"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[Id]
    account_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("account.id"), index=True)
    issuer: Mapped[str] = mapped_column(String(200))
    subject: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[CreatedAt]

    account: Mapped[Account] = relationship(lazy="joined", innerjoin=True)


class Subject(Base):
    """A person behind an account. What is personal is sealed with a key of its own; without that key it is noise."""

    __tablename__ = "subject"
    __table_args__ = (
        CheckConstraint("erased_at IS NULL OR (sealed_key IS NULL AND sealed IS NULL)", name="erased"),
    )

    account_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("account.id"), primary_key=True)
    sealed_key: Mapped[bytes | None]  # 32 bytes, enveloped under a master key
    sealed: Mapped[bytes | None]  # the fields as JSON: nonce, ciphertext, tag
    created_at: Mapped[CreatedAt]
    erased_at: Mapped[dt.datetime | None]
