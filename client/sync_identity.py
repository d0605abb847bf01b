"""The blocking client's logins."""

from __future__ import annotations

from collections.abc import Sequence

from raymill.client import identity_endpoints as calls
from raymill.client import identity_types as types
from raymill.client.endpoints import Id
from raymill.client.sync_control import Resource
from raymill.client.types import JsonObject
from raymill.client.validation import checked


class Sessions(Resource):
    """Logins. The client keeps none by itself: give it an access token as `api_key`, or use `raymill login`."""

    def create(self, account: str, password: str) -> types.Tokens:
        """Log in.

        Raises:
            Refused: account or password is wrong.
            ServerAway: 429, too many attempts.
        """
        return self._http.send(
            calls.log_in(checked(types.LoginRequest, {"account": account, "password": password}))
        )

    def list(self, *, account: str | None = None) -> Sequence[types.LoginSession]:
        """One's own, or for administrators another account's."""
        return self._http.send(calls.sessions(account)).data

    def end(self, session_id: Id) -> types.LoginSession:
        return self._http.send(calls.end_session(session_id))

    def start_oidc(self, redirect_uri: str) -> types.OidcStarted:
        """Begin a login at the identity provider, whose answer comes to a port of this machine."""
        body = checked(types.OidcStart, {"redirect_uri": redirect_uri})
        return self._http.send(calls.start_oidc(body))

    def finish_oidc(self, state: str, code: str, iss: str | None = None) -> types.Tokens:
        """Log in with what came back."""
        body = checked(types.OidcFinish, {"state": state, "code": code, "iss": iss})
        return self._http.send(calls.finish_oidc(body))

    def link(self, account: str, subject: str) -> types.Identity:
        """Let a subject of the identity provider log in as `account`; for administrators."""
        body = checked(types.IdentityRequest, {"subject": subject})
        return self._http.send(calls.link_identity(account, body))

    def unlink(self, account: str, subject: str) -> types.Identity:
        return self._http.send(calls.unlink_identity(account, subject))

    def whoami(self) -> types.Me:
        return self._http.send(calls.whoami())


class Passwords(Resource):
    """Passwords of accounts."""

    def set(self, account: str, password: str) -> types.PasswordSet:
        """For administrators. The account's sessions end."""
        return self._http.send(
            calls.set_password(account, checked(types.PasswordRequest, {"password": password}))
        )

    def change(self, current: str, password: str) -> types.PasswordSet:
        """One's own. All other sessions end."""
        body = checked(types.PasswordChange, {"current": current, "password": password})
        return self._http.send(calls.change_password(body))


class MasterKeys(Resource):
    """Versions of the key that seals secrets; for administrators."""

    def list(self) -> Sequence[types.MasterKey]:
        """The newest first."""
        return (self._http.send(calls.master_keys())).data

    def rotate(self) -> types.Resealed:
        """Make a new one, and seal every secret with it. The old ones stay."""
        return self._http.send(calls.rotate_master_key())

    def rewrap(self) -> types.Resealed:
        """Seal with the current one what is still under an older one: goes on with a rotation that was cut short."""
        return self._http.send(calls.rewrap())

    def retire(self, key_id: str) -> Sequence[types.MasterKey]:
        """Delete an old one that seals nothing any more. Returns those that are left."""
        return (self._http.send(calls.retire_master_key(key_id))).data


class People(Resource):
    """Who is behind accounts: one's own, or any for administrators."""

    def get(self, account: str) -> types.Person:
        return self._http.send(calls.person(account))

    def update(self, account: str, **fields: str | None) -> types.Person:
        """`display_name` and `email`: what is not given stays, None forgets."""
        return self._http.send(calls.set_person(account, checked(types.PersonUpdate, {**fields})))

    def export(self, account: str) -> JsonObject:
        """All that is kept of an account."""
        return (self._http.send(calls.export(account))).model_dump(mode="json")

    def erase(self, account: str) -> types.Erased:
        """For administrators, and for good: nothing personal is left, the account is disabled."""
        return self._http.send(calls.erase(account))
