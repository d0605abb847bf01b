"""`raymill environment`: what a move of an alias takes besides the policy's consent."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.canary import (
    ConfigFile,
    ForHours,
    LeastRequests,
    Shares,
    canary_of,
    told_shares,
)
from raymill.client.cli.output import out, out_json, table

app = new_app("What a move of an alias takes besides the policy's consent.")

HOUR_S = 3600


@app.command("list")
def list_environments(as_json: Json = False) -> None:
    """Each alias with the approvals that it takes."""
    with connect() as client:
        found = list(client.environments.list())
    if as_json:
        out_json(found)
        return
    rows = [
        (
            e.name,
            e.after,
            e.approvals,
            e.roles,
            f"{e.expires_after_s / HOUR_S:g} h",
            e.policy or "raymill",
            told_shares(e.canary) if e.canary else None,
        )
        for e in found
    ]
    out(table(["ALIAS", "AFTER", "APPROVALS", "OF", "REQUESTS EXPIRE AFTER", "POLICY", "CANARY"], rows))


@app.command("set")
def set_environment(
    name: Annotated[str, typer.Argument(help="Alias, such as production.", show_default=False)],
    approvals: Annotated[int, typer.Option(min=0, help="So many others than the requester must agree.")] = 0,
    role: Annotated[
        list[str] | None,
        typer.Option(help="Whose approvals count; may be repeated. By default approver and admin."),
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="A version must have been at this alias before.", show_default=False)
    ] = None,
    expires_after_h: Annotated[
        float, typer.Option(min=0.001, help="Hours until a request that was not executed never is.")
    ] = 168.0,
    policy: Annotated[
        str | None,
        typer.Option(help="Whose newest version decides. By default what Raymill ships.", show_default=False),
    ] = None,
    canary: Shares = None,
    canary_for_h: ForHours = None,
    canary_requests: LeastRequests = None,
    canary_config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Replace what a move of this alias takes, for all models; what is not given goes back to its default."""
    tried = canary_of(canary, canary_for_h, canary_requests, canary_config)
    with connect() as client:
        made = client.environments.set(
            name,
            approvals=approvals,
            roles=role or ["approver", "admin"],
            after=after,
            policy=policy,
            canary=tried,
            expires_after_s=max(1, round(expires_after_h * HOUR_S)),
        )
    if as_json:
        out_json(made)
        return
    first = f", after {made.after}" if made.after else ""
    tries = f", by a canary on {told_shares(made.canary)}" if made.canary else ""
    out(f"{made.name} takes {made.approvals} approvals of {' or '.join(made.roles)}{first}{tries}")
