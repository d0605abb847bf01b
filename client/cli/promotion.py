"""`raymill promotion`: decisions about which version an alias names."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.canary import (
    ConfigFile,
    ForHours,
    LeastRequests,
    Shares,
    canary_of,
    canary_rows,
)
from raymill.client.cli.output import out, out_json, table
from raymill.client.types import JsonObject, Promotion
from raymill.policies.errors import RaymillError

app = new_app("Decisions about which version an alias names, and requests that wait for approvals.")
PromotionId = Annotated[str, typer.Argument(metavar="ID", help="Of a promotion.", show_default=False)]


@app.command("list")
def list_promotions(
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only requests that wait.")] = False,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Decisions, the newest first."""
    with connect() as client:
        found = list(client.promotions.list(llm=model, waiting=waiting, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (
            p.created_at,
            p.id,
            p.llm,
            p.version,
            p.alias,
            p.state,
            approvals(p),
            p.requested_by,
            "; ".join(p.reasons),
        )
        for p in found
    ]
    out(table(["DECIDED", "ID", "MODEL", "VERSION", "ALIAS", "STATE", "APPROVALS", "BY", "REASONS"], rows))


@app.command()
def show(promotion_id: PromotionId, as_json: Json = False) -> None:
    """One promotion: what the policy said, who approved it, what became of it."""
    with connect() as client:
        found = client.promotions.get(promotion_id)
    if as_json:
        out_json(found)
        return
    rows: list[tuple[str, object]] = [
        ("model", f"{found.llm} version {found.version}"),
        ("alias", found.alias),
        ("state", found.state),
        ("asked for by", found.requested_by),
        ("asked for", found.created_at),
        ("reasons", "; ".join(found.reasons)),
        ("approvals", approvals(found)),
        *((f"approved by {each.account}", each.created_at) for each in found.approvals),
        ("expires", found.expires_at),
        ("closed", found.closed_at),
        ("closed by", found.closed_by),
        ("note", found.note),
        *canary_rows(found.canary),
        ("input sha256", found.input_digest),
        ("rules sha256", found.bundle_digest),
    ]
    out(table(["PROMOTION", str(found.id)], [row for row in rows if row[1]]))


@app.command()
def create(
    model: Annotated[str, typer.Argument(help="Model, such as support-triage.", show_default=False)],
    version: Annotated[int, typer.Argument(min=1, help="Version that the alias should name.")],
    to: Annotated[str, typer.Option(help="Alias to move.")] = "production",
    at_least: Annotated[
        list[str] | None, typer.Option(metavar="TASK=SCORE", help="Ask for a score; may be repeated.")
    ] = None,
    not_below_base: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Ask for no loss against the base; may be repeated."),
    ] = None,
    not_worse: Annotated[
        list[str] | None,
        typer.Option(
            "--not-significantly-worse-than",
            metavar="TASK=ALIAS",
            help="Compare by example with the version there, such as production; may be repeated.",
        ),
    ] = None,
    canary: Shares = None,
    canary_for_h: ForHours = None,
    canary_requests: LeastRequests = None,
    canary_config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Ask the policy to move an alias. Exit 1 when it refuses.

    Where the alias's environment asks for approvals, this makes a request that waits for them. With a canary the version
    answers a share of the alias's requests first.
    """
    require = gates(at_least or [], not_below_base or [], not_worse or [])
    tried = canary_of(canary, canary_for_h, canary_requests, canary_config)
    with connect() as client:
        decision = client.promotions.create(model, version, to=to, require=require, canary=tried)
    if as_json:
        out_json(decision)
    else:
        tell(decision)
    if not decision.allowed:
        raise RaymillError(f"{model} version {version} may not become {to}: {'; '.join(decision.reasons)}")


@app.command()
def approve(promotion_id: PromotionId, as_json: Json = False) -> None:
    """Agree to somebody else's request. The last approval that it takes moves the alias."""
    with connect() as client:
        found = client.promotions.approve(promotion_id)
    show_step(found, as_json)


@app.command()
def reject(
    promotion_id: PromotionId,
    reason: Annotated[str | None, typer.Option(help="Why; kept with it.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """End a request that waits, or take your own back."""
    with connect() as client:
        found = client.promotions.reject(promotion_id, reason=reason)
    out_json(found) if as_json else out(f"promotion {found.id} is rejected; {found.alias} stays where it is")


@app.command()
def execute(promotion_id: PromotionId, as_json: Json = False) -> None:
    """Move the alias for an approved request; needed only when its last approval could not."""
    with connect() as client:
        found = client.promotions.execute(promotion_id)
    show_step(found, as_json)


@app.command()
def advance(promotion_id: PromotionId, as_json: Json = False) -> None:
    """Move the alias now, whatever share the canary has come to."""
    with connect() as client:
        found = client.promotions.advance(promotion_id)
    show_step(found, as_json)


@app.command()
def abort(
    promotion_id: PromotionId,
    reason: Annotated[str | None, typer.Option(help="Why; kept with it.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """End a canary; the alias stays where it is."""
    with connect() as client:
        found = client.promotions.abort(promotion_id, reason=reason)
    out_json(found) if as_json else out(f"promotion {found.id} is aborted; {found.alias} stays where it is")


def show_step(found: Promotion, as_json: bool) -> None:
    """Raises RaymillError: today's rules refuse what was approved."""
    out_json(found) if as_json else tell(found)
    if found.state == "refused":
        raise RaymillError(
            f"{found.llm} version {found.version} may not become {found.alias}: {'; '.join(found.reasons)}"
        )


def tell(found: Promotion) -> None:
    if found.state == "executed":
        out(f"{found.llm} {found.alias} is version {found.version}")
    elif found.state == "canary" and found.canary is not None:
        out(
            f"{found.llm} version {found.version} tries itself on {found.canary.share:.0%} of {found.alias} "
            f"(`raymill promotion show {found.id}`)"
        )
    elif found.state in {"pending", "approved"}:
        roles = " or ".join(found.approver_roles)
        out(
            f"{found.llm} version {found.version} waits for {found.alias}: {approvals(found)} approvals of {roles} "
            f"(`raymill promotion approve {found.id}`)"
        )


def approvals(found: Promotion) -> str:
    return f"{len(found.approvals)} of {found.approvals_needed}" if found.approvals_needed else ""


def gates(at_least: list[str], not_below_base: list[str], not_worse: list[str]) -> dict[str, JsonObject]:
    """Task -> gate, from the command's options."""
    found: dict[str, JsonObject] = {}
    for text in at_least:
        task, _, score = text.rpartition("=")
        try:
            found.setdefault(task, {})["at_least"] = float(score)
        except ValueError:
            task = ""
        if not task:
            raise typer.BadParameter(f"{text!r} is no gate: write it as heldout_exact_match=0.9")
    for task in not_below_base:
        found.setdefault(task, {})["not_below_base"] = True
    for text in not_worse:
        task, _, alias = text.rpartition("=")
        if not task or not alias:
            raise typer.BadParameter(f"{text!r} is no gate: write it as heldout_exact_match=production")
        found.setdefault(task, {})["not_significantly_worse_than"] = alias
    return found
