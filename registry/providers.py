"""Outside services that answer for models: how each is reached, whether it is used, what it has, how it fares.

Only an admin's word gets an address in here; a request's never does. Keys are in `provider_keys.py`. Calls
nobody: what a provider said comes from `serve/gateway/probe.py`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from difflib import get_close_matches

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.provider_settings import (
    OURS,
    ProviderPreset,
    ProviderSettings,
    checked_base_url,
    presets,
)
from raymill.registry.tables import (
    Price,
    Provider,
    ProviderCheck,
    ProviderKey,
    ProviderModel,
    Route,
    Wire,
)

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_MODELS = 10_000
MAX_MODEL_CHARS = 200
MAX_MESSAGE_CHARS = 500


def preset_of(name: str) -> ProviderPreset:
    """Raises Invalid when there is no preset of that name."""
    known = presets()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        cure = f"did you mean {close[0]}?" if close else f"the presets are {', '.join(known)}"
        raise Invalid(f"no preset {name!r}: {cure}", param="preset")
    return known[name]


def find(session: Session, name: str, *, lock: bool = False) -> Provider:
    """Raises NotFound."""
    rows = select(Provider).where(Provider.name == name)
    row = session.scalar(rows.with_for_update() if lock else rows)
    if row is None:
        raise NotFound(f"no provider {name!r}: `raymill provider list` shows the ones there are")
    return row


def settings_of(row: Provider) -> ProviderSettings:
    return ProviderSettings.model_validate(row.settings)


def add(
    session: Session,
    name: str,
    actor: Actor,
    *,
    preset: str,
    base_url: str | None = None,
    settings: ProviderSettings | None = None,
    enabled: bool = True,
) -> Provider:
    """A new provider, without a key.

    Args:
        base_url, settings: None takes the preset's.

    Raises:
        Invalid: the name, the preset or the address is none, or the preset has no address and none is given.
        Conflict: the name is taken.
    """
    if not NAME.fullmatch(name) or name == OURS:
        why = "means our own versions" if name == OURS else f"does not match {NAME.pattern}"
        raise Invalid(f"a provider cannot be called {name[:80]!r}, which {why}: choose another", param="name")
    known = preset_of(preset)
    address = base_url or known.base_url
    if address is None:
        raise Invalid(f"{preset} has no address that holds for everyone: give base_url", param="base_url")
    resolved = settings or known.settings
    row = Provider(
        name=name,
        preset=preset,
        wire=Wire(known.wire),
        base_url=checked_base_url(address),
        settings=resolved.model_dump(mode="json"),
        enabled=enabled,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        raise Conflict(f"provider {name!r} exists already: change it, or choose another name") from None
    after = {"preset": preset, "base_url": row.base_url, "settings": row.settings, "enabled": enabled}
    audit.record(session, actor, "provider.add", f"provider/{name}", after=after)
    tell_gateways(session)
    return row


def change(
    session: Session,
    name: str,
    actor: Actor,
    *,
    base_url: str | None = None,
    settings: ProviderSettings | None = None,
    enabled: bool | None = None,
) -> Provider:
    """Change what is given; the same again changes nothing.

    Raises:
        NotFound: no provider is called so.
        Invalid: the address is none.
    """
    row = find(session, name, lock=True)
    wanted = {
        "base_url": None if base_url is None else checked_base_url(base_url),
        "settings": None if settings is None else settings.model_dump(mode="json"),
        "enabled": enabled,
    }
    changed = {
        field: value for field, value in wanted.items() if value is not None and value != getattr(row, field)
    }
    before = {field: getattr(row, field) for field in changed}
    for field, value in changed.items():
        setattr(row, field, value)
    if changed:
        audit.record(session, actor, "provider.change", f"provider/{name}", before=before, after=changed)
        tell_gateways(session)
    return row


def remove(session: Session, name: str, actor: Actor) -> Provider:
    """Forget a provider, its keys, models, checks and prices. Usage that names it stays.

    Raises:
        NotFound: no provider is called so.
        Conflict: a route sends requests to it.
    """
    row = find(session, name, lock=True)
    users = routes_using(session, name)
    if users:
        raise Conflict(f"{name} is a target of {', '.join(users)}: change or remove these routes first")
    keys = session.scalar(
        select(func.count()).select_from(ProviderKey).where(ProviderKey.provider_id == row.id)
    )
    for table in (ProviderKey, ProviderModel, ProviderCheck):
        session.execute(delete(table).where(table.provider_id == row.id))
    session.execute(delete(Price).where(Price.provider == name))
    session.delete(row)
    audit.record(session, actor, "provider.remove", f"provider/{name}", keys=keys)
    tell_gateways(session)
    return row


def routes_using(session: Session, name: str) -> list[str]:
    """Names of the routes that have the provider as a target."""
    rows = session.scalars(
        select(Route.name)
        .where(Route.config.contains({"targets": [{"provider": name}]}))
        .order_by(Route.name)
    )
    return list(rows)


def record_check(
    session: Session,
    provider_id: uuid.UUID,
    *,
    ok: bool,
    status: int | None,
    latency_ms: float,
    message: str = "",
) -> ProviderCheck:
    """Keep what a test found: the health history. Changes nothing that gateways work by.

    Raises:
        NotFound: the provider was removed meanwhile.
    """
    if session.get(Provider, provider_id, with_for_update={"read": True}) is None:
        raise NotFound("the provider was removed while it was tested: add it again")
    row = ProviderCheck(
        provider_id=provider_id,
        ok=ok,
        status=status,
        latency_ms=latency_ms,
        message=message.replace("\x00", "")[:MAX_MESSAGE_CHARS],
    )
    session.add(row)
    session.flush()
    return row


def sync_models(session: Session, name: str, models: Iterable[str], actor: Actor) -> list[str]:
    """Let the provider have exactly these models. Names that could be none are left out.

    Returns:
        The models, sorted.
    """
    row = find(session, name, lock=True)
    wanted = sorted({model for model in models if _is_model(model)})[:MAX_MODELS]
    known = set(session.scalars(select(ProviderModel.model).where(ProviderModel.provider_id == row.id)))
    gone = known - set(wanted)
    if gone:
        session.execute(
            delete(ProviderModel).where(ProviderModel.provider_id == row.id, ProviderModel.model.in_(gone))
        )
    if wanted:
        values = [
            {"provider_id": row.id, "model": model, "seen_at": func.clock_timestamp()} for model in wanted
        ]
        added = insert(ProviderModel).values(values)
        session.execute(
            added.on_conflict_do_update(
                index_elements=["provider_id", "model"], set_={"seen_at": added.excluded.seen_at}
            )
        )
    new = len(set(wanted) - known)
    if new or gone:
        audit.record(session, actor, "provider.sync", f"provider/{name}", added=new, removed=len(gone))
        tell_gateways(session)
    return wanted


def _is_model(model: str) -> bool:
    return 0 < len(model) <= MAX_MODEL_CHARS and model.isprintable() and not model.isspace()
