"""`raymill price`: what models cost, in dollars per 1,000,000 tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.given import dollars, micro_usd
from raymill.client.cli.output import out, out_json, table
from raymill.client.gateway_types import ModelPrice

app = new_app("What models cost, in dollars per 1,000,000 tokens.")
Provider = Annotated[str, typer.Argument(help="Provider, such as openai; '*' for any.", show_default=False)]
Model = Annotated[str, typer.Argument(help="Model, such as gpt-4o; '*' for any.", show_default=False)]


@app.command("list")
def list_prices(
    provider: Annotated[str | None, typer.Option(help="Only those of this provider.")] = None,
    as_json: Json = False,
) -> None:
    """The prices that hold: overrides, and the dated table for the providers there are."""
    with connect() as client:
        found = [p for p in client.prices.list() if provider is None or p.provider == provider]
    if as_json:
        out_json(found)
        return
    rows = [
        (
            p.provider,
            p.model,
            dollars(p.input_micro_usd),
            dollars(p.cached_input_micro_usd),
            dollars(p.output_micro_usd),
            p.max_output_tokens,
            p.source,
            p.as_of,
        )
        for p in found
    ]
    out(table(["PROVIDER", "MODEL", "INPUT", "CACHED", "OUTPUT", "LONGEST", "BY", "AS OF"], rows))


@app.command("set")
def set_price(
    provider: Provider,
    model: Model,
    input_usd: Annotated[str, typer.Option("--input", metavar="USD", help="Of what is sent, such as 2.50.")],
    output_usd: Annotated[str, typer.Option("--output", metavar="USD", help="Of what is answered.")],
    cached_usd: Annotated[
        str | None,
        typer.Option("--cached-input", metavar="USD", help="Of what the provider had cached; as --input."),
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, by which budgets are reserved.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Override a price, or give one that is missing. It holds from the next second on."""
    with connect() as client:
        made = client.prices.set(
            provider,
            model,
            input_micro_usd=micro_usd(input_usd),
            output_micro_usd=micro_usd(output_usd),
            cached_input_micro_usd=None if cached_usd is None else micro_usd(cached_usd),
            max_output_tokens=max_output_tokens,
        )
    out_json(made) if as_json else out(said(made))


@app.command()
def remove(provider: Provider, model: Model, as_json: Json = False) -> None:
    """Take an override back: what the table says holds again."""
    with connect() as client:
        gone = client.prices.remove(provider, model)
    out_json(gone) if as_json else out(f"{gone.model} of {gone.provider} has no override any more")


def said(price: ModelPrice) -> str:
    costs = f"{dollars(price.input_micro_usd)} in, {dollars(price.output_micro_usd)} out"
    return f"{price.model} of {price.provider}: {costs}, dollars per 1,000,000 tokens"
