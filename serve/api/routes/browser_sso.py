"""A browser's login at the identity provider: to it, back to the console's page, and a session in a cookie.

What the browser brings back counts only beside the cookie that the same browser was given when it began (RFC 6749, section
10.12), so nobody is logged in as somebody else by a link. The session's cookie is that of `browser.py`.
"""

from __future__ import annotations

import hmac
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Header, Request, Response

from raymill.client import identity_types
from raymill.client.console_types import SsoOffer, SsoStarted
from raymill.registry import oidc, oidc_return
from raymill.registry.sessions import NotLoggedIn
from raymill.serve.api.context import PartsDep, SessionDep
from raymill.serve.api.routes.browser import by_tls, check_own_page, signed_in
from raymill.serve.api.routes.oidc import begun, logged_in
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/browser/sso", tags=["sessions"], route_class=ThreadRoute)

COOKIE = "raymill_sso"
"""Holds the state of the login that this browser has begun. HttpOnly, SameSite=Strict: the page asks, not the provider's."""


def cookie_name(request: Request) -> str:
    """By TLS one that no other host of the same domain can set (RFC 6265bis, section 4.1.3.2)."""
    return f"__Host-{COOKIE}" if by_tls(request) else COOKIE


@router.get("")
def offer(found: PartsDep) -> SsoOffer:
    """Whether people can sign in at an identity provider, and at whose."""
    config = found.settings.oidc
    return SsoOffer(provider=urlsplit(config.issuer).netloc if config else None)


@router.post("", status_code=201)
def begin(
    body: identity_types.OidcStart,
    request: Request,
    response: Response,
    found: PartsDep,
    opened: SessionDep,
    origin: Annotated[str | None, Header()] = None,
) -> SsoStarted:
    """Begin a login: where the browser has to go, to come back to the console. Too many from an address have to wait (429)."""
    check_own_page(request)
    oidc_return.check_console(body.redirect_uri, origin)
    started = begun(body, request, found, opened)
    response.set_cookie(
        cookie_name(request),
        started.state,
        max_age=oidc.LOGIN_S,
        path="/",
        httponly=True,
        samesite="strict",
        secure=by_tls(request),
    )
    return SsoStarted(url=started.url)


@router.post("/session", status_code=201)
def finish(
    body: identity_types.OidcFinish,
    request: Request,
    response: Response,
    found: PartsDep,
    opened: SessionDep,
) -> identity_types.Me:
    """Log in with the code that the browser brought back; the session is in the answer's cookie."""
    check_own_page(request)
    state = request.cookies.get(cookie_name(request), "")
    if not hmac.compare_digest(state.encode(), body.state.encode()):
        raise NotLoggedIn("this login was not begun in this browser, or too long ago: begin again")
    made = logged_in(body, request, found, opened, oidc_return.CONSOLE)
    response.delete_cookie(
        cookie_name(request), path="/", httponly=True, samesite="strict", secure=by_tls(request)
    )
    return signed_in(request, response, found.settings.secret_box, made.session)
