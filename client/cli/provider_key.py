"""`raymill provider key`: keys of providers. A secret goes in and never comes out again."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.given import KeyEnv, KeyStdin, secret
from raymill.client.cli.output import out, out_json, table

app = new_app("Keys of providers: a secret goes in and never comes out again.")
Provider = Annotated[str, typer.Argument(help="Provider, such as openai.", show_default=False)]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Name of the key, such as main.", show_default=False)]


@app.command("list")
def list_keys(provider: Provider, as_json: Json = False) -> None:
    """Its keys, by their last characters."""
    with connect() as client:
        found = list(client.providers.keys.list(provider))
    if as_json:
        out_json(found)
        return
    rows = [
        (k.name, k.hint, "yes" if k.enabled else "no", k.created_at, k.rotated_at, k.master_key)
        for k in found
    ]
    out(table(["KEY", "ENDS IN", "ENABLED", "CREATED", "ROTATED", "MASTER KEY"], rows))


@app.command("set")
def set_key(
    provider: Provider, key: Key, key_env: KeyEnv = None, key_stdin: KeyStdin = False, as_json: Json = False
) -> None:
    """Add a key, or put another secret in its place. Gateways use it within a second."""
    given = secret(key_env, key_stdin)
    if given is None:
        raise typer.BadParameter("no secret: give --key-env or --key-stdin")
    with connect() as client:
        made = client.providers.keys.set(provider, key, given)
    out_json(made) if as_json else out(f"{provider} has key {made.name}, ending in {made.hint}")


@app.command()
def enable(provider: Provider, key: Key, as_json: Json = False) -> None:
    """Use it again."""
    _enable(provider, key, True, as_json)


@app.command()
def disable(provider: Provider, key: Key, as_json: Json = False) -> None:
    """Leave it alone from now on."""
    _enable(provider, key, False, as_json)


@app.command()
def remove(provider: Provider, key: Key, as_json: Json = False) -> None:
    """Forget it. At the provider it works on until it is revoked there."""
    with connect() as client:
        gone = client.providers.keys.remove(provider, key)
    out_json(gone) if as_json else out(f"{provider} has no key {gone.name} any more")


def _enable(provider: str, key: str, enabled: bool, as_json: bool) -> None:
    with connect() as client:
        found = client.providers.keys.enable(provider, key, enabled=enabled)
    word = "enabled" if found.enabled else "disabled"
    out_json(found) if as_json else out(f"key {found.name} of {provider} is {word}")
