"""What the gateway knows, read from the registry: callers, providers, routes, presets, and ready versions."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
from psycopg import sql
from pydantic import ValidationError
from sqlalchemy import or_, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from raymill.cluster.applications import answering_application, application_for
from raymill.cluster.settings import Settings
from raymill.policies.errors import RaymillError, Unavailable
from raymill.registry import canaries, prices, tables
from raymill.registry.aliases import ALIAS_CHANNEL
from raymill.registry.database import dsn_of, is_away
from raymill.registry.gateway_config import CONFIG_CHANNEL
from raymill.registry.identity import KEY_CHANNEL
from raymill.registry.limits import LIMITS
from raymill.registry.provider_settings import ProviderSettings
from raymill.registry.secrets import SecretBox
from raymill.serve.gateway.catalog import (
    FREE,
    Canary,
    Preset,
    Provider,
    ProviderSecret,
    Route,
    Served,
    Target,
    served_target,
    with_weight,
)
from raymill.serve.gateway.config import OURS, RouteConfig
from raymill.serve.gateway.limits import Limit
from raymill.serve.gateway.snapshot import Caller, Snapshot
from raymill.serve.llm.config import ServeConfig

log = logging.getLogger(__name__)

# Every change of what is read here has an audit row, but for what the reconciler reports.
VERSION = text("""
SELECT (SELECT max(seq) FROM audit_event),
       (SELECT string_agg(concat_ws(' ', llm_id, alias, serving_version_id, serving_application), ','
                         ORDER BY llm_id, alias) FROM deployment),
       (SELECT string_agg(concat_ws(' ', promotion_id, state, step), ',' ORDER BY promotion_id)
        FROM canary WHERE ended_at IS NULL)
""")
TAKE_S = 5.0
"""Within which a canary's engine takes a request: nobody waits for one that has died, for the present version is there."""

CHANNELS = (ALIAS_CHANNEL, KEY_CHANNEL, CONFIG_CHANNEL)


class RegistrySource:
    """A `SnapshotSource` on Postgres. Made in the replica, from its environment."""

    def __init__(self) -> None:
        settings = Settings()
        self._database = settings.open_database(pool_size=1)
        self._secrets = settings.secret_box
        self._listening: psycopg.AsyncConnection | None = None
        self._loaded: tuple[Any, Snapshot] | None = None

    async def load(self) -> Snapshot:
        try:
            return await asyncio.to_thread(self._load)
        except DBAPIError as error:
            if is_away(error):
                raise Unavailable("the registry's database is away: see that Postgres runs") from error
            raise

    async def changed(self) -> None:
        try:
            if self._listening is None:
                dsn = dsn_of(self._database.url)
                connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
                try:
                    for channel in CHANNELS:
                        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                except BaseException:  # whoever waits for news may give up at any time
                    await connection.close()
                    raise
                self._listening = connection
                return  # something may have changed before we listened
            async for _ in self._listening.notifies(stop_after=1):
                return
        except psycopg.OperationalError as error:
            self._listening = None
            raise Unavailable("the registry's database is away: see that Postgres runs") from error

    async def close(self) -> None:
        if self._listening is not None:
            await self._listening.close()
        self._database.close()

    def _load(self) -> Snapshot:
        with self._database.transaction() as session:
            version = tuple(session.execute(VERSION).one())
            if self._loaded is not None and self._loaded[0] == version:
                return self._loaded[1]
            overrides = prices.overrides(session)
            providers = _providers(session, self._secrets, overrides)
            served = _served(session, overrides)
            snapshot = Snapshot.of(
                _callers(session),
                served,
                routes=_routes(session, providers, served),
                presets=_presets(session),
                providers=providers.values(),
            )
        self._loaded = (version, snapshot)
        return snapshot


def _callers(session: Session) -> dict[str, Caller]:
    """Every live key, with all limits that hold for it."""
    rows = session.scalars(
        select(tables.ApiKey)
        .join(tables.Account)
        .where(
            tables.ApiKey.revoked_at.is_(None),
            tables.Account.disabled_at.is_(None),
            or_(tables.ApiKey.scopes == [], tables.ApiKey.scopes.contains(["gateway"])),
        )
    )
    tiers = {tier.name: tier.limits for tier in session.scalars(select(tables.Tier))}
    budgets: dict[str, list[tables.Budget]] = defaultdict(list)
    for budget in session.scalars(select(tables.Budget)):
        budgets[budget.subject].append(budget)
    callers = {}
    for row in rows:
        account = row.account
        if account.team is not None and account.team.disabled_at is not None:
            continue
        subjects = [f"key:{row.id}", f"account:{account.id}"]
        if account.team_id is not None:
            subjects.append(f"team:{account.team_id}")
        callers[row.key_sha256] = Caller(
            key_id=row.id,
            account=account.name,
            account_id=account.id,
            team_id=account.team_id,
            expires_at=row.expires_at.timestamp() if row.expires_at else None,
            limits=(
                *_limits(f"account:{account.id}", {**tiers.get(account.tier, {}), **account.limits}),
                *(
                    Limit(f"{subject}/micro_usd", budget.period.value, budget.limit_micro_usd)
                    for subject in subjects
                    for budget in budgets[subject]
                ),
            ),
        )
    return callers


def _limits(subject: str, limits: dict[str, Any]) -> list[Limit]:
    return [
        Limit(f"{subject}/{counted.kind}", counted.window, limits[name])
        for name, counted in LIMITS.items()
        if counted.by_gateway and limits.get(name) is not None
    ]


def _providers(session: Session, box: SecretBox, overrides: prices.Overrides) -> dict[str, Provider]:
    """The enabled ones. A key that does not open is left out, and its provider tells so when it is asked."""
    secrets: dict[Any, list[ProviderSecret]] = defaultdict(list)
    for key in session.scalars(select(tables.ProviderKey).where(tables.ProviderKey.enabled)):
        try:
            value = box.open(key.sealed, owner=str(key.provider_id), secret_id=str(key.id))
        except RaymillError as error:
            log.error("key %s of provider %s does not open: %s", key.name, key.provider_id, error)
            continue
        secrets[key.provider_id].append(ProviderSecret(id=str(key.id), name=key.name, value=value))
    models: dict[Any, list[str]] = defaultdict(list)
    for listed in session.scalars(select(tables.ProviderModel).order_by(tables.ProviderModel.model)):
        models[listed.provider_id].append(listed.model)
    found = {}
    for row in session.scalars(select(tables.Provider).where(tables.Provider.enabled)):
        try:
            settings = ProviderSettings.model_validate(row.settings)
        except ValidationError as error:
            log.error("the settings of provider %s cannot be read, so it is left out: %s", row.name, error)
            continue
        found[row.name] = Provider(
            name=row.name,
            wire=row.wire.value,
            base_url=row.base_url,
            settings=settings,
            secrets=tuple(secrets[row.id]),
            models=tuple(models[row.id]),
            price_of=partial(prices.price_of, overrides, row.name, row.preset),
        )
    return found


def _routes(session: Session, providers: dict[str, Provider], served: list[Served]) -> list[Route]:
    """Enabled routes. A target whose provider is disabled, or whose version is not served, is left out."""
    ours = {name: version for version in served for name in version.public_names}
    routes = []
    for row in session.scalars(select(tables.Route).where(tables.Route.enabled).order_by(tables.Route.name)):
        try:
            config = RouteConfig.model_validate(row.config)
        except ValidationError as error:
            log.error("route %s cannot be read, so it is left out: %s", row.name, error)
            continue
        targets = []
        for wanted in config.targets:
            target = None
            if wanted.provider == OURS:
                version = ours.get(wanted.model)
                if version is not None:
                    target = served_target(wanted.model, version)
            elif (provider := providers.get(wanted.provider)) is not None:
                target = Target(model=wanted.model, provider=provider, price=provider.price_of(wanted.model))
            if target is not None:
                targets.append(with_weight(target, wanted))
        created = int(row.created_at.timestamp())
        routes.append(Route(name=row.name, targets=tuple(targets), config=config, created=created))
    return routes


def _presets(session: Session) -> list[Preset]:
    return [
        Preset(
            name=row.name,
            model=row.model,
            system=row.system,
            params=row.params,
            created=int(row.created_at.timestamp()),
        )
        for row in session.scalars(select(tables.Preset).order_by(tables.Preset.name))
    ]


def _served(session: Session, overrides: prices.Overrides) -> list[Served]:
    """Versions that the reconciler reported as ready, with the deployment's alias.

    While a newer version loads, the deployment row still names the one that answers. A canary that is ready takes its share
    of the alias, and answers to its exact name.
    """
    trials = {
        (row.llm_id, row.alias, row.current_id): row
        for row in canaries.running(session)
        if row.state is tables.CanaryState.RUNNING
    }
    rows = list(
        session.scalars(select(tables.Deployment).where(tables.Deployment.serving_version_id.is_not(None)))
    )
    # An application is shared by the aliases of a version, and sleeps by the settings that any of them asked for last.
    wakes: dict[uuid.UUID, float] = {}
    for row in rows:
        wake_s = _wake_s(row.config)
        for version_id in {row.serving_version_id, row.version_id}:
            if version_id is not None and wake_s is not None:
                wakes[version_id] = max(wake_s, wakes.get(version_id, 0.0))
    served = []
    for row in rows:
        version = session.get_one(tables.LlmVersion, row.serving_version_id)
        trial = trials.get((row.llm_id, row.alias, version.id))
        canary = None
        if trial is not None:
            settings = canaries.serving_of(session, trial)
            asked = _wake_s(settings)
            application = application_for(session, trial.version, settings)
            tried = replace(
                _one(trial.version, (), overrides, application, settings),
                wake_s=wakes.get(trial.version.id, asked),
            )
            served.append(tried)
            canary = Canary(
                id=trial.promotion_id,
                target=served_target(tried.exact_name, replace(tried, take_s=TAKE_S)),
                share=canaries.share_of(trial),
            )
        answers = answering_application(session, row)
        assert answers is not None, "a version answers for each of these"
        mine = _one(version, (row.alias,), overrides, answers, row.config)
        served.append(replace(mine, wake_s=wakes.get(version.id), canary=canary))
    return served


def _wake_s(config: tables.JsonObject) -> float | None:
    asked = _settings(config)
    return asked.wake_s if asked is not None else None


def _settings(config: tables.JsonObject) -> ServeConfig | None:
    try:
        return ServeConfig.model_validate(config)
    except ValidationError:
        return None  # the reconciler tells what is wrong with it


def _one(
    version: tables.LlmVersion,
    aliases: tuple[str, ...],
    overrides: prices.Overrides,
    application: str,
    config: tables.JsonObject,
) -> Served:
    name = version.llm.name
    asked = _settings(config) or ServeConfig()
    return Served(
        name=name,
        version=version.number,
        application=application,
        aliases=aliases,
        created=int(version.created_at.timestamp()),
        price=prices.price_of(overrides, OURS, "", name) or FREE,
        routing=asked.routed,
    )
