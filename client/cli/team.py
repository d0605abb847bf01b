"""`raymill team`: accounts that share limits and budgets."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.client.usage_types import Team
from raymill.policies.errors import Invalid

app = new_app("Accounts that share limits and budgets.")
TeamName = Annotated[str, typer.Argument(metavar="TEAM", help="Name of a team.", show_default=False)]
AccountName = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="Name of an account.", show_default=False)
]


@app.command("list")
def list_teams(as_json: Json = False) -> None:
    """Teams and who is in them."""
    with connect() as client:
        found = list(client.teams.list())
    if as_json:
        out_json(found)
        return
    rows = [(t.name, t.accounts, t.created_at, t.disabled_at) for t in found]
    out(table(["NAME", "ACCOUNTS", "CREATED", "DISABLED"], rows))


@app.command()
def create(team: TeamName, as_json: Json = False) -> None:
    """Make a team; `raymill team add` puts accounts in."""
    with connect() as client:
        made = client.teams.create(team)
    out_json(made) if as_json else out(f"{made.name} is a team")


@app.command()
def add(team: TeamName, account: AccountName, as_json: Json = False) -> None:
    """Put an account into a team; it leaves the one that it was in."""
    with connect() as client:
        moved = client.accounts.update(account, team=team)
    out_json(moved) if as_json else out(f"{moved.name} is in {moved.team}")


@app.command()
def remove(team: TeamName, account: AccountName, as_json: Json = False) -> None:
    """Take an account out of a team."""
    with connect() as client:
        now = client.accounts.limits(account).team
        if now != team:
            raise Invalid(f"{account} is in {now or 'no team'}, not in {team}: see `raymill team list`")
        moved = client.accounts.update(account, team=None)
    out_json(moved) if as_json else out(f"{moved.name} is in no team")


@app.command()
def disable(team: TeamName, as_json: Json = False) -> None:
    """Shut all its accounts out, within a second."""
    _switch(team, disabled=True, as_json=as_json)


@app.command()
def enable(team: TeamName, as_json: Json = False) -> None:
    """Let its accounts in again."""
    _switch(team, disabled=False, as_json=as_json)


@app.command()
def quota(
    team: TeamName,
    jobs: Annotated[str | None, typer.Option(metavar="N", help="Jobs at once; none: no bound.")] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="N", help="GPUs that they hold; none: no bound.")
    ] = None,
    cpus: Annotated[
        str | None, typer.Option(metavar="N", help="CPUs that they ask of Ray; none: no bound.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What the running jobs of a team may hold at once, and hold; with options, change it."""
    given = {"max_running": jobs, "max_gpus": gpus, "max_cpus": cpus}
    changes = {name: _bound(text) for name, text in given.items() if text is not None}
    with connect() as client:
        found = client.teams.set_quota(team, **changes) if changes else client.teams.quota(team)
    if as_json:
        out_json(found)
        return
    rows = [
        ("jobs", found.running, found.max_running),
        ("GPUs", found.gpus, found.max_gpus),
        ("CPUs", found.cpus, found.max_cpus),
    ]
    out(
        table(
            ["HOLDS", "NOW", "AT MOST"],
            [(what, now, "any" if most is None else most) for what, now, most in rows],
        )
    )
    out(f"{found.queued} jobs wait")


def _bound(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is no number: give one, or none for no bound")
    return int(text)


def _switch(team: str, *, disabled: bool, as_json: bool) -> None:
    with connect() as client:
        changed: Team = client.teams.update(team, disabled=disabled)
    out_json(changed) if as_json else out(f"{changed.name} is {'disabled' if disabled else 'enabled'}")
