"""Keys of providers: sealed when they come, opened only to be used. Never returned, logged or audited.

A provider may have several; gateways use the enabled ones in turn.
"""

from __future__ import annotations

import datetime as dt
import re

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.providers import NAME, find, settings_of
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import Provider, ProviderKey, new_id

SECRET = re.compile(r"[\x21-\x7e]{1,4096}")
HINT_CHARS = 4
HINT_FROM_CHARS = 16
"""Of a shorter secret no part is shown: it would give away too much of it."""


def set_key(
    session: Session, box: SecretBox, provider: str, name: str, secret: str, actor: Actor
) -> ProviderKey:
    """Add a key, or put another secret in its place. A disabled key stays disabled.

    Raises:
        NotFound: no provider is called so, or there is no master key to seal with.
        Invalid: the name is none, or the secret cannot be sent in a header. The message does not hold it.
    """
    if not NAME.fullmatch(name):
        raise Invalid(f"a key cannot be called {name[:80]!r}: match {NAME.pattern}", param="name")
    secret = secret.strip()
    if not SECRET.fullmatch(secret):
        raise Invalid(
            f"the secret has {len(secret)} characters: give 1 to 4096 of printable ASCII, without spaces",
            param="secret",
        )
    owner = find(session, provider, lock=True)
    row = _get(session, owner, name)
    rotated = row is not None
    if row is None:
        row = ProviderKey(id=new_id(), provider_id=owner.id, name=name)
        session.add(row)
    else:
        row.rotated_at = dt.datetime.now(dt.UTC)
    row.sealed = _seal(box, row, secret)
    row.hint = f"…{secret[-HINT_CHARS:]}" if len(secret) >= HINT_FROM_CHARS else "…"
    session.flush()
    action = "provider_key.rotate" if rotated else "provider_key.set"
    audit.record(session, actor, action, f"provider/{provider}/key/{name}", hint=row.hint)
    tell_gateways(session)
    session.refresh(row)
    return row


def enable_key(session: Session, provider: str, name: str, actor: Actor, *, enabled: bool) -> ProviderKey:
    """Use a key or leave it alone; the same again changes nothing."""
    row = find_key(session, find(session, provider, lock=True), name)
    if row.enabled != enabled:
        row.enabled = enabled
        action = "provider_key.enable" if enabled else "provider_key.disable"
        audit.record(session, actor, action, f"provider/{provider}/key/{name}")
        tell_gateways(session)
    return row


def remove_key(session: Session, provider: str, name: str, actor: Actor) -> ProviderKey:
    """The secret is gone from here; at the provider it lives on until it is revoked there."""
    row = find_key(session, find(session, provider, lock=True), name)
    session.delete(row)
    audit.record(session, actor, "provider_key.remove", f"provider/{provider}/key/{name}", hint=row.hint)
    tell_gateways(session)
    return row


def find_key(session: Session, provider: Provider, name: str) -> ProviderKey:
    """Raises NotFound."""
    row = _get(session, provider, name)
    if row is None:
        raise NotFound(
            f"{provider.name} has no key {name!r}: "
            f"`raymill provider key list {provider.name}` shows the ones there are"
        )
    return row


def open_key(box: SecretBox, row: ProviderKey) -> str:
    """The secret itself: for a request to the provider, and for nothing else. Raises as `SecretBox.open`."""
    return box.open(row.sealed, owner=str(row.provider_id), secret_id=str(row.id))


def secret_to_use(session: Session, box: SecretBox, provider: Provider, name: str | None) -> str | None:
    """The secret of the named key, else of the oldest enabled one; None where none is needed and none is there.

    Raises:
        NotFound: it has no key of that name.
        Conflict: it needs a key and has none that is enabled.
    """
    if name is not None:
        return open_key(box, find_key(session, provider, name))
    row = session.scalar(
        select(ProviderKey)
        .where(ProviderKey.provider_id == provider.id, ProviderKey.enabled)
        .order_by(ProviderKey.id)
        .limit(1)
    )
    if row is not None:
        return open_key(box, row)
    if settings_of(provider).needs_key:
        raise Conflict(
            f"{provider.name} has no enabled key: "
            f"`raymill provider key set {provider.name} main --key-stdin` gives it one"
        )
    return None


def _seal(box: SecretBox, row: ProviderKey, secret: str) -> bytes:
    return box.seal(secret, owner=str(row.provider_id), secret_id=str(row.id))


def _get(session: Session, provider: Provider, name: str) -> ProviderKey | None:
    return session.scalar(
        select(ProviderKey).where(ProviderKey.provider_id == provider.id, ProviderKey.name == name)
    )
