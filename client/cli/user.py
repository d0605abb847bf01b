"""`raymill user`: accounts and their roles."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.asking import PasswordStdin, ask_password, new_password
from raymill.client.cli.output import out, out_json, table
from raymill.client.types import RoleName

app = new_app("Accounts and their roles.")
AccountName = Annotated[str, typer.Argument(help="Name of the account.", show_default=False)]
Subject = Annotated[str, typer.Argument(help="Subject (sub) at the identity provider.", show_default=False)]


@app.command("list")
def list_users(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Accounts."""
    with connect() as client:
        found = list(client.accounts.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(a.name, a.role, a.team, a.tier, a.created_at, a.disabled_at) for a in found]
    out(table(["NAME", "ROLE", "TEAM", "TIER", "CREATED", "DISABLED"], rows))


@app.command()
def create(
    name: AccountName,
    role: Annotated[RoleName, typer.Option(help="What it may do.")] = "viewer",
    team: Annotated[str | None, typer.Option(help="Put it into this team.")] = None,
    tier: Annotated[
        str, typer.Option(help="Its limits: free, pro or enterprise, which has none.")
    ] = "enterprise",
    as_json: Json = False,
) -> None:
    """Add an account. It can do nothing before `raymill key create` gives it a key."""
    with connect() as client:
        account = client.accounts.create(name, role=role, team=team, tier=tier)
    out_json(account) if as_json else out(f"{account.name} is {account.role}")


@app.command("set-role")
def set_role(
    name: AccountName,
    role: Annotated[RoleName, typer.Argument(help="What it may do.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Change what an account may do, from now on."""
    with connect() as client:
        account = client.accounts.update(name, role=role)
    out_json(account) if as_json else out(f"{account.name} is {account.role}")


@app.command("set-password")
def set_password(name: AccountName, password_stdin: PasswordStdin = False, as_json: Json = False) -> None:
    """Give an account a password, or another one. Its logins end; its keys stay."""
    password = new_password(password_stdin)
    with connect() as client:
        done = client.passwords.set(name, password)
    out_json(done) if as_json else out(f"{name} has a new password; {done.ended_sessions} logins ended")


@app.command("change-password")
def change_password(as_json: Json = False) -> None:
    """Change one's own password. All other logins end."""
    current = ask_password("current password: ")
    password = new_password(from_stdin=False)
    with connect() as client:
        done = client.passwords.change(current, password)
    out_json(done) if as_json else out(
        f"{done.account} has a new password; {done.ended_sessions} logins ended"
    )


@app.command()
def link(
    name: AccountName,
    subject: Subject,
    as_json: Json = False,
) -> None:
    """Let a subject of the identity provider log in as an account."""
    with connect() as client:
        made = client.sessions.link(name, subject)
    out_json(made) if as_json else out(f"{made.subject} of {made.issuer} is {made.account}")


@app.command()
def unlink(
    name: AccountName,
    subject: Subject,
    as_json: Json = False,
) -> None:
    """The subject logs in no more; the account's logins end."""
    with connect() as client:
        gone = client.sessions.unlink(name, subject)
    out_json(gone) if as_json else out(f"{gone.subject} of {gone.issuer} is no longer {gone.account}")


@app.command()
def describe(
    name: AccountName,
    display_name: Annotated[str | None, typer.Option(help="Name of the person; empty to forget it.")] = None,
    email: Annotated[str | None, typer.Option(help="Where to reach them; empty to forget it.")] = None,
    as_json: Json = False,
) -> None:
    """Say who is behind an account, or show it. Kept sealed, so that it can be erased."""
    given = {"display_name": display_name, "email": email}
    fields = {key: value for key, value in given.items() if value is not None}
    with connect() as client:
        person = client.people.update(name, **fields) if fields else client.people.get(name)
    out_json(person) if as_json else out(
        table(["NAME", "PERSON", "EMAIL"], [(name, person.display_name, person.email)])
    )


@app.command()
def export(name: AccountName, as_json: Json = False) -> None:  # noqa: ARG001 (it is JSON anyway)
    """All that is kept of an account, as JSON: one's own, or any for administrators."""
    with connect() as client:
        out_json(client.people.export(name))


@app.command()
def erase(
    name: AccountName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Destroy what is personal of an account, for good. It is disabled; the audit log stays whole."""
    if not yes:
        typer.confirm(f"nothing personal of {name} can be had again. Erase it?", abort=True)
    with connect() as client:
        done = client.people.erase(name)
    out_json(done) if as_json else out(f"{done.account} is erased")


@app.command()
def disable(name: AccountName, as_json: Json = False) -> None:
    """Shut an account and its keys out, within a second."""
    _switch(name, disabled=True, as_json=as_json)


@app.command()
def enable(name: AccountName, as_json: Json = False) -> None:
    """Let an account in again."""
    _switch(name, disabled=False, as_json=as_json)


def _switch(name: str, *, disabled: bool, as_json: bool) -> None:
    with connect() as client:
        account = client.accounts.update(name, disabled=disabled)
    out_json(account) if as_json else out(f"{account.name} is {'disabled' if disabled else 'enabled'}")
