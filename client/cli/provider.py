"""`raymill provider`: outside services that answer for models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymill.client.cli import provider_key
from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.given import KeyEnv, KeyStdin, dollars, secret, yaml_section
from raymill.client.cli.output import out, out_json, out_switched, table
from raymill.client.gateway_types import Provider, ProviderCheck
from raymill.policies.errors import RaymillError

app = new_app("Outside services that answer for models.")
app.add_typer(provider_key.app, name="key")

Name = Annotated[str, typer.Argument(help="Provider, such as openai.", show_default=False)]
BaseUrl = Annotated[str | None, typer.Option(help="Its address, such as https://host/v1.")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", metavar="FILE", help="YAML with what to change of its settings.")
]


@app.command("list")
def list_providers(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Providers, and how each did when it was last tested."""
    with connect() as client:
        found = list(client.providers.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (p.name, p.preset, "yes" if p.enabled else "no", len(p.keys), p.models, health(p), p.base_url)
        for p in found
    ]
    out(table(["NAME", "PRESET", "ENABLED", "KEYS", "MODELS", "HEALTH", "ADDRESS"], rows))


@app.command()
def presets(as_json: Json = False) -> None:
    """Providers that the gateway knows how to speak to."""
    with connect() as client:
        found = list(client.providers.presets())
    if as_json:
        out_json(found)
        return
    rows = [
        (p.name, p.wire, "yes" if p.settings["needs_key"] else "no", p.base_url or "give --base-url")
        for p in found
    ]
    out(table(["PRESET", "WIRE", "KEY", "ADDRESS"], rows))


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One provider: address, settings, keys, health."""
    with connect() as client:
        found = client.providers.get(name)
    if as_json:
        out_json(found)
        return
    settings = [(f"setting {key}", value) for key, value in found.settings.items()]
    keys = [(f"key {k.name}", f"{k.hint}{'' if k.enabled else ' (disabled)'}") for k in found.keys]
    rows = [
        ("preset", found.preset),
        ("wire", found.wire),
        ("address", found.base_url),
        ("enabled", "yes" if found.enabled else "no"),
        ("models", found.models),
        ("health", health(found)),
        *keys,
        *settings,
    ]
    out(table(["PROVIDER", found.name], rows))


@app.command()
def add(
    preset: Annotated[str, typer.Argument(help="See `raymill provider presets`.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="What to call it; the preset's name by default.")] = None,
    base_url: BaseUrl = None,
    settings: SettingsFile = None,
    key_env: KeyEnv = None,
    key_stdin: KeyStdin = False,
    as_json: Json = False,
) -> None:
    """Add a provider, and a key called main when a secret is given."""
    given = secret(key_env, key_stdin)
    changes = yaml_section(settings) if settings else None
    with connect() as client:
        made = client.providers.add(preset, name=name, base_url=base_url, settings=changes)
        if given is not None:
            client.providers.keys.set(made.name, "main", given)
            made = client.providers.get(made.name)
    if as_json:
        out_json(made)
        return
    out(f"{made.name} is at {made.base_url}; `raymill provider test {made.name}` asks it")


@app.command()
def change(
    name: Name, base_url: BaseUrl = None, settings: SettingsFile = None, as_json: Json = False
) -> None:
    """Change its address or its settings. A key of the file that is null goes back to its default."""
    if base_url is None and settings is None:
        raise typer.BadParameter("nothing to change: give --base-url or --settings")
    changes = yaml_section(settings) if settings else None
    with connect() as client:
        found = client.providers.change(name, base_url=base_url, settings=changes)
    out_json(found) if as_json else out(f"{found.name} is at {found.base_url}")


@app.command()
def enable(name: Name, as_json: Json = False) -> None:
    """Let requests go to it."""
    with connect() as client:
        out_switched(client.providers.change(name, enabled=True), as_json)


@app.command()
def disable(name: Name, as_json: Json = False) -> None:
    """Send no request to it from now on; routes ask their other targets."""
    with connect() as client:
        out_switched(client.providers.change(name, enabled=False), as_json)


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Forget it, its keys and its prices. Refused while a route sends requests to it."""
    with connect() as client:
        found = client.providers.remove(name)
    out_json(found) if as_json else out(f"{found.name} is removed, with {len(found.keys)} keys")


@app.command("test")
def ask(
    name: Name,
    key: Annotated[str | None, typer.Option(help="Key to test; the one in use by default.")] = None,
    as_json: Json = False,
) -> None:
    """Ask it now, with a key. Exit 1 when it does not answer well."""
    with connect() as client:
        found = client.providers.test(name, key=key)
    if as_json:
        out_json(found)
    elif found.ok:
        out(f"{name} answers {found.status} in {found.latency_ms:.0f} ms")
    if not found.ok:
        raise RaymillError(f"{name} failed its test: {found.message}")


@app.command()
def checks(name: Name, limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Its health history: what tests found, the newest first."""
    with connect() as client:
        found = list(client.providers.checks(name, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(c.at, verdict(c), c.status, f"{c.latency_ms:.0f} ms", c.message) for c in found]
    out(table(["TESTED", "HEALTH", "STATUS", "TOOK", "MESSAGE"], rows))


@app.command()
def sync(name: Name, as_json: Json = False) -> None:
    """Read its list of models, and keep it: each can then be asked for by its name."""
    with connect() as client:
        found = client.providers.sync(name)
    out_json(found) if as_json else out(f"{name} has {len(found.models)} models")


@app.command()
def models(name: Name, as_json: Json = False) -> None:
    """Its models at the last sync, in dollars per 1,000,000 tokens."""
    with connect() as client:
        found = list(client.providers.models(name))
    if as_json:
        out_json(found)
        return
    rows = []
    for each in found:
        price = each.price
        costs = (dollars(price.input_micro_usd), dollars(price.output_micro_usd)) if price else ("?", "?")
        rows.append((each.model, *costs, price.source if price else None, each.seen_at))
    out(table(["MODEL", "INPUT", "OUTPUT", "PRICE BY", "SEEN"], rows))


def health(provider: Provider) -> str | None:
    return verdict(provider.last_check) if provider.last_check else None


def verdict(check: ProviderCheck) -> str:
    return "ok" if check.ok else "failed"
