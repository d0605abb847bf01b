"""Logins at an identity provider: OpenID Connect Core 1.0, authorization code flow with PKCE (RFC 7636, S256).

The service makes state, nonce and code verifier, and keeps them for ten minutes, to be taken once. The browser comes back
(`oidc_return.py`) to a port of the machine that logs in, or to the console, which takes only what its own browser began: whoever
is sent a link of somebody else's login gives nothing away. An account is found by issuer and subject, never by an e-mail address. Units: seconds.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import jwt
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, NotFound, Unavailable
from raymill.registry import audit, identity
from raymill.registry.audit import Actor
from raymill.registry.identity import is_live
from raymill.registry.oidc_return import is_loopback, leads_to
from raymill.registry.sessions import NotLoggedIn
from raymill.registry.tables import Account, ExternalIdentity, OidcLogin, Role

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Of ID tokens. None that is symmetric: a client's secret would then sign."""

LOGIN_S = 600
CACHE_S = 3600.0
REFETCH_S = 5.0
"""Keys are asked for anew for an id that is not known, but not more often."""

LEEWAY_S = 60
TIMEOUT_S = 10.0
MAX_SUBJECT_CHARS = 255
ACCOUNT_PREFIX = "sso-"


@dataclass(frozen=True, kw_only=True)
class OidcConfig:
    """One identity provider, and what this service is there."""

    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    """None: a public client, which PKCE alone protects."""

    scopes: str = "openid profile email"
    create_role: Role | None = None
    """Of the account that is made at a subject's first login; None: an admin links subjects to accounts."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """Where the browser has to go, and what it will bring back."""

    url: str
    state: str


class IdentityProvider:
    """What is known of a provider: its endpoints and keys, for an hour. Threads may share it."""

    def __init__(self, config: OidcConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._endpoints: tuple[float, dict[str, Any]] = (0.0, {})
        self._keys: tuple[float, dict[str, jwt.PyJWK]] = (0.0, {})

    def authorization_url(self, row: OidcLogin, state: str) -> str:
        """Raises Unavailable: the provider does not answer."""
        given = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": row.redirect_uri,
            "scope": self.config.scopes,
            "state": state,
            "nonce": row.nonce,
            "code_challenge": _base64url(hashlib.sha256(row.verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        endpoint = self._endpoint("authorization_endpoint")
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(given)}"

    def claims_for(self, row: OidcLogin, code: str) -> dict[str, Any]:
        """Trade a code for an ID token, and check that.

        Raises:
            NotLoggedIn: the provider refuses the code, or the token is not one for this login.
            Unavailable: it does not answer.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": row.redirect_uri,
            "code_verifier": row.verifier,
            "client_id": self.config.client_id,
        }
        secret = self.config.client_secret
        auth = httpx.BasicAuth(self.config.client_id, secret) if secret is not None else None
        try:
            answer = httpx.post(self._endpoint("token_endpoint"), data=form, auth=auth, timeout=TIMEOUT_S)
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise self._away(error) from error
        if answer.is_server_error:
            raise self._away(f"status {answer.status_code}")
        token = found.get("id_token") if isinstance(found, dict) else None
        if not answer.is_success or not isinstance(token, str):
            raise NotLoggedIn("the identity provider refused the code: begin again")
        return self.verified(token, row.nonce)

    def verified(self, token: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token (OpenID Connect Core 1.0, section 3.1.3.7). Raises NotLoggedIn, Unavailable."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(str(header.get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self.config.client_id,
                issuer=self.config.issuer,
                leeway=LEEWAY_S,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except jwt.PyJWTError as error:
            raise NotLoggedIn(
                f"the identity provider's token is not valid ({error}): see RAYMILL_OIDC_ISSUER and _CLIENT_ID"
            ) from None
        if not claims["sub"] or len(claims["sub"]) > MAX_SUBJECT_CHARS:
            raise NotLoggedIn("the identity provider's token names nobody: begin again")
        party = claims.get("azp")
        if party is None and isinstance(claims["aud"], list) and len(claims["aud"]) > 1:
            party = ""  # for several parties, and it does not say for which
        if party not in (None, self.config.client_id):
            raise NotLoggedIn("the identity provider's token is for another client: begin again")
        if not secrets.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise NotLoggedIn("the identity provider's token is of another login: begin again")
        return claims

    def _endpoint(self, name: str) -> str:
        with self._lock:
            until, found = self._endpoints
            if time.monotonic() >= until:
                issuer = self.config.issuer
                found = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                if found.get("issuer") != issuer:
                    raise Invalid(
                        f"RAYMILL_OIDC_ISSUER is {issuer}, which calls itself {found.get('issuer')!r}"
                    )
                self._endpoints = (time.monotonic() + CACHE_S, found)
        url = str(found.get(name, ""))
        if not is_safe(url):
            raise Invalid(f"the identity provider's {name} is {url!r}: it has to be https")
        return url

    def _key(self, key_id: str) -> jwt.PyJWK:
        """Asked for again when the id is not known: the provider may have rotated its keys."""
        url = self._endpoint("jwks_uri")
        with self._lock:
            fetched_at, keys = self._keys
            age_s = time.monotonic() - fetched_at if keys else CACHE_S
            if age_s >= CACHE_S or (self._find(keys, key_id) is None and age_s >= REFETCH_S):
                keys = _keys_of(self._get(url))
                self._keys = (time.monotonic(), keys)
        found = self._find(keys, key_id)
        if found is None:
            raise jwt.InvalidKeyError(f"no key {key_id!r}")
        return found

    @staticmethod
    def _find(keys: dict[str, jwt.PyJWK], key_id: str) -> jwt.PyJWK | None:
        # A provider with one key need not name it.
        return next(iter(keys.values())) if not key_id and len(keys) == 1 else keys.get(key_id)

    def _get(self, url: str) -> dict[str, Any]:
        try:
            answer = httpx.get(url, timeout=TIMEOUT_S)
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise self._away(error) from error
        return found if isinstance(found, dict) else {}

    def _away(self, error: object) -> Unavailable:
        return Unavailable(
            f"the identity provider {self.config.issuer} does not answer ({error}): try again in a moment"
        )


@functools.lru_cache(maxsize=8)
def provider_of(config: OidcConfig) -> IdentityProvider:
    """The one of this process, with what it knows."""
    if not is_safe(config.issuer):
        raise Invalid(f"RAYMILL_OIDC_ISSUER is {config.issuer!r}: it has to be https")
    return IdentityProvider(config)


def start(session: Session, provider: IdentityProvider, redirect_uri: str) -> Started:
    """Begin a login.

    Args:
        redirect_uri: where the browser comes back to, checked by `oidc_return.py`.

    Raises:
        Unavailable: the provider does not answer.
    """
    state = secrets.token_urlsafe(32)
    row = OidcLogin(
        state_sha256=_sha256(state),
        nonce=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(48),
        redirect_uri=redirect_uri,
        expires_at=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=LOGIN_S),
    )
    url = provider.authorization_url(row, state)  # before the database is asked: it may take its time
    session.add(row)
    return Started(url=url, state=state)


def take(session: Session, state: str, path: str) -> OidcLogin:
    """The login that was begun with `state`, to come back to `path`; nobody can take it again once this commits.

    Raises:
        NotLoggedIn: there is none.
    """
    row = session.get(OidcLogin, _sha256(state), with_for_update=True)
    if row is None or row.expires_at <= dt.datetime.now(dt.UTC) or not leads_to(row.redirect_uri, path):
        raise NotLoggedIn("this login was finished already, or too slowly: begin again")
    session.delete(row)
    session.flush()
    return row


def account_of(session: Session, config: OidcConfig, claims: dict[str, Any], actor: Actor) -> Account:
    """The account behind checked claims; made now where the configuration has them made.

    Raises:
        NotLoggedIn: no account is linked to the subject, or it is disabled.
    """
    subject = str(claims["sub"])
    row = _find(session, config.issuer, subject)
    if row is None:
        if config.create_role is None:
            raise NotLoggedIn(
                f"no account is linked to {subject!r} of {config.issuer}: "
                "an admin links one with `raymill user link ACCOUNT SUBJECT`"
            )
        # Not by the name there, which the audit log could never forget.
        name = ACCOUNT_PREFIX + _sha256(f"{config.issuer} {subject}")[:16]
        account = identity.create_account(session, name, config.create_role, actor)
        row = link(session, account, config.issuer, subject, actor)
    if not is_live(row.account):
        raise NotLoggedIn("the account is disabled: an admin can enable it")
    return row.account


def link(session: Session, account: Account, issuer: str, subject: str, actor: Actor) -> ExternalIdentity:
    """Let a subject of a provider log in as `account`. The same again changes nothing.

    Raises:
        Conflict: it is linked to another account.
    """
    row = _find(session, issuer, subject)
    if row is None:
        row = ExternalIdentity(account=account, issuer=issuer, subject=subject)
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            raise Conflict(f"{subject!r} was linked at this moment: try again") from None
        audit.record(session, actor, "identity.link", f"account/{account.name}", issuer=issuer)
    if row.account_id != account.id:
        raise Conflict(f"{subject!r} is linked to {row.account.name!r}: unlink it there first")
    return row


def unlink(session: Session, account: Account, issuer: str, subject: str, actor: Actor) -> None:
    """Raises NotFound."""
    row = _find(session, issuer, subject)
    if row is None or row.account_id != account.id:
        raise NotFound(f"{account.name} is not linked to {subject!r} of {issuer}")
    session.delete(row)
    audit.record(session, actor, "identity.unlink", f"account/{account.name}", issuer=issuer)


def is_safe(url: str) -> bool:
    """https, or http on this machine alone."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    )


def _find(session: Session, issuer: str, subject: str) -> ExternalIdentity | None:
    return session.scalar(
        select(ExternalIdentity).where(ExternalIdentity.issuer == issuer, ExternalIdentity.subject == subject)
    )


def _keys_of(document: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """Those that sign, by id; what this library does not know is passed over."""
    keys = {}
    for each in document.get("keys", []):
        if each.get("use", "sig") == "sig" and each.get("kty") != "oct":
            try:
                keys[str(each.get("kid", ""))] = jwt.PyJWK(each)
            except jwt.PyJWTError:
                continue
    return keys


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
