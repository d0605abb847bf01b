"""Providers and their keys: only sound addresses come in, no secret comes out, every change is told."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.registry.making import ADA

from raymill.cluster.wake import Wake
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import gateway_config, prices, provider_keys, providers
from raymill.registry.artifacts import Tampered
from raymill.registry.database import Database
from raymill.registry.provider_settings import (
    ProviderSettings,
    checked_base_url,
    merge_patch,
    presets,
)
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import AuditEvent, Provider, ProviderCheck, ProviderKey, ProviderModel

SECRET = "sk-proj-0123456789abcdef"


@pytest.fixture
def box(tmp_path: Path) -> SecretBox:
    made = SecretBox(tmp_path / "secrets")
    made.create_if_missing()
    return made


@pytest.fixture
def registry(database: Database) -> Database:
    """With the provider openai."""
    with database.transaction() as session:
        providers.add(session, "openai", ADA, preset="openai")
    return database


@pytest.fixture
def wake(registry: Database) -> Iterator[Wake]:
    """Rings when gateways are told."""
    made = Wake(registry.url, gateway_config.CONFIG_CHANNEL)
    made.wait(0.1)
    yield made
    made.close()


def actions(database: Database) -> list[str]:
    with database.transaction() as session:
        return list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))


def everything(database: Database) -> str:
    """All rows of the tables that speak of providers, and the audit log, as text."""
    tables = ("provider", "provider_key", "provider_check", "provider_model", "audit_event")
    with database.engine.connect() as connection:
        return "\n".join(
            str(row)
            for table in tables
            for row in connection.exec_driver_sql(f"SELECT to_jsonb(t)::text FROM {table} t").scalars()
        )


# --- presets and settings ---------------------------------------------------------------------------------


def test_every_preset_is_complete() -> None:
    for name, preset in presets().items():
        assert providers.NAME.fullmatch(name)
        assert preset.base_url is None or checked_base_url(preset.base_url) == preset.base_url
        assert "models" in preset.settings.paths, name
        assert len(preset.settings.paths) > 1, name
        dumped = preset.settings.model_dump(mode="json")
        assert ProviderSettings.model_validate(dumped) == preset.settings
    assert presets()["anthropic"].settings.headers == {"anthropic-version": "2023-06-01"}
    assert not presets()["mistral"].settings.stream_usage


def test_a_query_is_appended_as_it_is_sent() -> None:
    assert ProviderSettings().query_string == ""
    assert ProviderSettings(query={"api-version": "2024-10-21", "a": "b c"}).query_string == (
        "?api-version=2024-10-21&a=b+c"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"headers": {"Authorization": "Bearer x"}}, "Authorization looks like a secret"),
        ({"headers": {"X-API-Key": "x"}}, "looks like a secret"),
        ({"query": {"access_token": "x"}}, "looks like a secret"),
        ({"headers": {"Host": "inside"}}, "'Host' cannot be set here"),
        ({"headers": {"X-A\r\nX-B": "x"}}, "cannot be set here"),
        ({"headers": {"X-A": "x\r\nX-B: y"}}, "printable ASCII"),
        ({"paths": {"chat": "chat"}}, "path chat is 'chat': write it as"),
        ({"paths": {"chat": "/a/../../b"}}, "path chat"),
        ({"paths": {"chat": "/a?key=1"}}, "without a query"),
        ({"paths": {"shout": "/a"}}, "paths.shout"),
        ({"auth": "basic"}, "auth"),
        ({"spelt": "wrong"}, "spelt"),
    ],
)
def test_settings_that_would_leak_or_leave_the_host_are_refused(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match="validation error") as refused:
        ProviderSettings.model_validate(settings)
    assert words in str(refused.value)


def test_settings_are_merged_key_by_key_and_null_removes() -> None:
    before = {"auth": "bearer", "paths": {"chat": "/c", "models": "/m"}, "drop": ["a", "b"]}
    patch = {"paths": {"chat": "/x", "models": None}, "drop": ["c"], "auth": None, "query": {"v": "1"}}
    assert merge_patch(before, patch) == {"paths": {"chat": "/x"}, "drop": ["c"], "query": {"v": "1"}}
    assert before["paths"] == {"chat": "/c", "models": "/m"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is no address: write it as https://host/path"),
        ("api.openai.com/v1", "is no address"),
        ("ftp://host/v1", "is no address"),
        ("file:///etc/passwd", "is no address"),
        ("https://", "is no address"),
        ("https://host:port/", "is no address"),
        ("https://ho st/", "is no address"),
        ("https://höst/", "is no address"),
        ("https://host\\@evil/", "user or a password|is no address"),
        ("https://host/" + "a" * 300, "is no address"),
        ("https://a..b/", "is no address"),
        ("https://*.example/", "is no address"),
        ("https://-a/", "is no address"),
        ("https://" + "a" * 64, "is no address"),
        ("https://ada:secret@host/v1", "holds a user or a password"),
        ("ftp://ada:secret@host/v1", "holds a user or a password"),
        ("https://host/v1?key=1", "holds more than an address"),
        ("https://host/v1#x", "holds more than an address"),
        ("http://169.254.169.254/latest", "is a link-local address"),
        ("http://[fe80::1]/", "is a link-local address"),
        ("http://0xa9fea9fe/", "is a link-local address"),
        ("http://2852039166/", "is a link-local address"),
        ("http://[::ffff:169.254.169.254]/", "is a link-local address"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        checked_base_url(url)
    assert refused.value.param == "base_url"
    assert "secret" not in str(refused.value).replace("set the secret as a key", "")


def test_private_and_local_addresses_are_for_servers_of_ones_own() -> None:
    for url in (
        "http://127.0.0.1:11434/v1",
        "http://10.0.0.7:8000/v1",
        "http://[::1]:8080",
        "https://gpu-1/v1",
    ):
        assert checked_base_url(f"{url}/") == url


# --- providers --------------------------------------------------------------------------------------------


def test_a_provider_is_added_changed_switched_and_removed_and_gateways_are_told(
    registry: Database, wake: Wake
) -> None:
    for _ in range(2):  # the second time changes nothing
        with registry.transaction() as session:
            row = providers.change(
                session, "openai", ADA, base_url="https://eu.api.openai.com/v1/", enabled=False
            )
        assert (row.base_url, row.enabled) == ("https://eu.api.openai.com/v1", False)
    assert wake.wait(5)
    settings = ProviderSettings(max_tokens_field="max_tokens", paths={"chat": "/c"})
    with registry.transaction() as session:
        row = providers.change(session, "openai", ADA, settings=settings)
        assert providers.settings_of(row) == settings
    with registry.transaction() as session:
        providers.remove(session, "openai", ADA)
    with registry.transaction() as session, pytest.raises(NotFound, match="`raymill provider list`"):
        providers.find(session, "openai")
    assert actions(registry) == ["provider.add", "provider.change", "provider.change", "provider.remove"]


@pytest.mark.parametrize("name", ["", "raymill", "Open", "a/b", "a@b", "*", "é", "a" * 65])
def test_a_name_that_could_be_misread_is_refused(database: Database, name: str) -> None:
    with database.transaction() as session, pytest.raises(Invalid, match="a provider cannot be called"):
        providers.add(session, name, ADA, preset="openai")


def test_what_a_preset_lacks_must_be_given(database: Database) -> None:
    with database.transaction() as session:
        with pytest.raises(Invalid, match="no preset 'opnai': did you mean openai"):
            providers.add(session, "x", ADA, preset="opnai")
        with pytest.raises(Invalid, match="no preset 'zzz': the presets are openai"):
            providers.add(session, "x", ADA, preset="zzz")
        with pytest.raises(Invalid, match="vllm has no address that holds for everyone: give base_url"):
            providers.add(session, "x", ADA, preset="vllm")
        providers.add(session, "x", ADA, preset="vllm", base_url="http://gpu-1:8000/v1")


def test_a_name_is_taken_once_also_by_eight_at_once(database: Database) -> None:
    def add(_: int) -> bool:
        try:
            with database.transaction() as session:
                providers.add(session, "openai", ADA, preset="openai")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(add, range(8))) == 1
    with database.transaction() as session, pytest.raises(Conflict, match="provider 'openai' exists already"):
        providers.add(session, "openai", ADA, preset="openai")


def test_removing_takes_everything_of_it_along(registry: Database, box: SecretBox) -> None:
    with registry.transaction() as session:
        row = providers.find(session, "openai")
        provider_keys.set_key(session, box, "openai", "main", SECRET, ADA)
        providers.record_check(session, row.id, ok=True, status=200, latency_ms=1.5)
        providers.sync_models(session, "openai", ["gpt-4o"], ADA)
        prices.set_price(session, "openai", "gpt-4o", prices.Price(1, 1, 1), ADA)
    with registry.transaction() as session:
        providers.remove(session, "openai", ADA)
        for table in (Provider, ProviderKey, ProviderCheck, ProviderModel):
            assert session.scalar(select(func.count()).select_from(table)) == 0
        assert prices.overrides(session) == {}
        with pytest.raises(NotFound, match="was removed while it was tested"):
            providers.record_check(session, row.id, ok=True, status=200, latency_ms=1.5)


def test_syncing_replaces_the_list_and_leaves_out_what_is_no_name(registry: Database) -> None:
    def sync(*models: str) -> list[str]:
        with registry.transaction() as session:
            return providers.sync_models(session, "openai", models, ADA)

    assert sync("b", "a", "a", "", " ", "x" * 201, "nul\x00", "line\n") == ["a", "b"]
    assert sync("a", "b") == ["a", "b"]  # told of nothing, for nothing changed
    assert sync("c") == ["c"]
    assert sync() == []
    with registry.transaction() as session:
        details = session.scalars(
            select(AuditEvent.detail).where(AuditEvent.action == "provider.sync").order_by(AuditEvent.seq)
        ).all()
    assert details == [{"added": 2, "removed": 0}, {"added": 1, "removed": 2}, {"added": 0, "removed": 1}]


# --- keys -------------------------------------------------------------------------------------------------


def test_a_key_is_sealed_opened_only_by_the_box_and_nowhere_to_be_read_P8(
    registry: Database, box: SecretBox, wake: Wake
) -> None:
    with registry.transaction() as session:
        row = provider_keys.set_key(session, box, "openai", "main", f" {SECRET}\n", ADA)
    assert wake.wait(5)
    assert row.hint == "…cdef"
    assert provider_keys.open_key(box, row) == SECRET
    assert SECRET[:-4] not in everything(registry)
    assert SECRET not in repr(row)


def test_rotating_a_key_keeps_its_name_and_disabling_it_lasts(registry: Database, box: SecretBox) -> None:
    with registry.transaction() as session:
        first = provider_keys.set_key(session, box, "openai", "main", SECRET, ADA)
        assert first.rotated_at is None
        provider_keys.enable_key(session, "openai", "main", ADA, enabled=False)
    with registry.transaction() as session:
        second = provider_keys.set_key(session, box, "openai", "main", "short", ADA)
        assert (second.id, second.enabled, second.hint) == (first.id, False, "…")
        assert second.rotated_at is not None
        assert provider_keys.open_key(box, second) == "short"
        for _ in range(2):
            provider_keys.enable_key(session, "openai", "main", ADA, enabled=True)
        provider_keys.remove_key(session, "openai", "main", ADA)
        with pytest.raises(NotFound, match="openai has no key 'main': `raymill provider key list openai`"):
            provider_keys.remove_key(session, "openai", "main", ADA)
    assert actions(registry)[1:] == [
        "provider_key.set",
        "provider_key.disable",
        "provider_key.rotate",
        "provider_key.enable",
        "provider_key.remove",
    ]


@pytest.mark.parametrize("secret", ["", "  ", "two words", "line\nline", "schlüssel", "x" * 4097, "nul\x00"])
def test_a_secret_that_fits_no_header_is_refused_without_repeating_it(
    registry: Database, box: SecretBox, secret: str
) -> None:
    with registry.transaction() as session, pytest.raises(Invalid, match="the secret has") as refused:
        provider_keys.set_key(session, box, "openai", "main", secret, ADA)
    assert not secret.strip() or secret.strip() not in str(refused.value)


def test_the_oldest_enabled_key_is_used_unless_one_is_named(registry: Database, box: SecretBox) -> None:
    with registry.transaction() as session:
        openai = providers.find(session, "openai")
        with pytest.raises(Conflict, match="openai has no enabled key: `raymill provider key set openai"):
            provider_keys.secret_to_use(session, box, openai, None)
        for name in ("zeta", "alpha"):
            provider_keys.set_key(session, box, "openai", name, f"secret-{name}", ADA)
        assert provider_keys.secret_to_use(session, box, openai, None) == "secret-zeta"
        assert provider_keys.secret_to_use(session, box, openai, "alpha") == "secret-alpha"
        provider_keys.enable_key(session, "openai", "zeta", ADA, enabled=False)
        assert provider_keys.secret_to_use(session, box, openai, None) == "secret-alpha"
        ollama = providers.add(session, "ollama", ADA, preset="ollama")
        assert provider_keys.secret_to_use(session, box, ollama, None) is None


def test_a_sealed_key_copied_to_another_provider_does_not_open(registry: Database, box: SecretBox) -> None:
    with registry.transaction() as session:
        mine = provider_keys.set_key(session, box, "openai", "main", SECRET, ADA)
        providers.add(session, "evil", ADA, preset="openai-compatible", base_url="https://evil.example")
        theirs = provider_keys.set_key(session, box, "evil", "main", "x", ADA)
        theirs.sealed = mine.sealed
        with pytest.raises(Tampered):
            provider_keys.open_key(box, theirs)
