"""`raymill login`, `logout` and `whoami`."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.asking import PasswordStdin, password_of
from raymill.client.cli.browser_login import by_browser
from raymill.client.cli.output import out, out_json, when
from raymill.policies.errors import Denied, Invalid, NotFound

login_app = new_app()
logout_app = new_app()
whoami_app = new_app()


@login_app.command()
def login(
    account: Annotated[str | None, typer.Argument(help="Name of the account.", show_default=False)] = None,
    sso: Annotated[
        bool, typer.Option("--sso", help="Log in at the identity provider, in a browser.")
    ] = False,
    password_stdin: PasswordStdin = False,
    as_json: Json = False,
) -> None:
    """Log in; commands on this machine then act as that account. RAYMILL_API_KEY still comes first."""
    from raymill.client.sdk import Raymill
    from raymill.client.session_auth import stored
    from raymill.client.session_file import SessionFile
    from raymill.registry.home import default_home

    if sso is (account is not None):
        raise Invalid("say who logs in: `raymill login ACCOUNT`, or `raymill login --sso`", param="account")
    password = password_of(password_stdin) if account is not None else ""
    # Not with an older login, which may have ended: who logs in needs none.
    with Raymill(api_key="none") as client:
        tokens = client.sessions.create(account, password) if account is not None else by_browser(client)
        SessionFile(default_home()).put(client.url, stored(tokens))
    if as_json:
        out_json(tokens.model_dump(mode="json", exclude={"access_token", "refresh_token"}))
        return
    out(f"{tokens.account} is {tokens.role}, until {when(tokens.session_expires_at)} at the latest")


@logout_app.command()
def logout(as_json: Json = False) -> None:
    """End the login on this machine; its tokens open nothing any more."""
    from raymill.client.errors import Refused
    from raymill.client.session_file import SessionFile
    from raymill.client.settings import load_settings
    from raymill.registry.home import default_home

    settings = load_settings()
    file, url = SessionFile(default_home()), settings.url
    session = file.get(url)
    if session is None:
        raise NotFound(f"there is no login for {url}: `raymill login ACCOUNT` makes one")
    try:
        with connect() as client:
            client.sessions.end(session.session_id)
    except Denied as error:
        unknown = isinstance(error, Refused) and error.status == 401
        ended_already = settings.session_file is not None and (unknown or file.get(url) is None)
        if not ended_already:
            raise
    file.put(url, None)
    out_json({"account": session.account}) if as_json else out(f"{session.account} is logged out")


@whoami_app.command()
def whoami(as_json: Json = False) -> None:
    """The account that commands act as."""
    with connect() as client:
        me = client.sessions.whoami()
    if as_json:
        out_json(me)
        return
    how = "with an API key" if me.session_id is None else f"by login {me.session_id}"
    out(f"{me.account} is {me.role}{f' in team {me.team}' if me.team else ''}, {how}")
