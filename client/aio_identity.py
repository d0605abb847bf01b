"""The asyncio client's logins."""

from __future__ import annotations

from collections.abc import Sequence

from raymill.client import identity_endpoints as calls
from raymill.client import identity_types as types
from raymill.client.aio_control import Resource
from raymill.client.endpoints import Id
from raymill.client.types import JsonObject
from raymill.client.validation import checked


class Sessions(Resource):
    """Logins. The client keeps none by itself: give it an access token as `api_key`, or use `raymill login`."""

    async def create(self, account: str, password: str) -> types.Tokens:
        """Log in.

        Raises:
            Refused: account or password is wrong.
            ServerAway: 429, too many attempts.
        """
        return await self._http.send(
            calls.log_in(checked(types.LoginRequest, {"account": account, "password": password}))
        )

    async def list(self, *, account: str | None = None) -> Sequence[types.LoginSession]:
        """One's own, or for administrators another account's."""
        return (await self._http.send(calls.sessions(account))).data

    async def end(self, session_id: Id) -> types.LoginSession:
        return await self._http.send(calls.end_session(session_id))

    async def start_oidc(self, redirect_uri: str) -> types.OidcStarted:
        """Begin a login at the identity provider, whose answer comes to a port of this machine."""
        body = checked(types.OidcStart, {"redirect_uri": redirect_uri})
        return await self._http.send(calls.start_oidc(body))

    async def finish_oidc(self, state: str, code: str, iss: str | None = None) -> types.Tokens:
        """Log in with what came back."""
        body = checked(types.OidcFinish, {"state": state, "code": code, "iss": iss})
        return await self._http.send(calls.finish_oidc(body))

    async def link(self, account: str, subject: str) -> types.Identity:
        """Let a subject of the identity provider log in as `account`; for administrators."""
        body = checked(types.IdentityRequest, {"subject": subject})
        return await self._http.send(calls.link_identity(account, body))

    async def unlink(self, account: str, subject: str) -> types.Identity:
        return await self._http.send(calls.unlink_identity(account, subject))

    async def whoami(self) -> types.Me:
        return await self._http.send(calls.whoami())


class Passwords(Resource):
    """Passwords of accounts."""

    async def set(self, account: str, password: str) -> types.PasswordSet:
        """For administrators. The account's sessions end."""
        return await self._http.send(
            calls.set_password(account, checked(types.PasswordRequest, {"password": password}))
        )

    async def change(self, current: str, password: str) -> types.PasswordSet:
        """One's own. All other sessions end."""
        body = checked(types.PasswordChange, {"current": current, "password": password})
        return await self._http.send(calls.change_password(body))


class MasterKeys(Resource):
    """Versions of the key that seals secrets; for administrators."""

    async def list(self) -> Sequence[types.MasterKey]:
        """The newest first."""
        return (await self._http.send(calls.master_keys())).data

    async def rotate(self) -> types.Resealed:
        """Make a new one, and seal every secret with it. The old ones stay."""
        return await self._http.send(calls.rotate_master_key())

    async def rewrap(self) -> types.Resealed:
        """Seal with the current one what is still under an older one: goes on with a rotation that was cut short."""
        return await self._http.send(calls.rewrap())

    async def retire(self, key_id: str) -> Sequence[types.MasterKey]:
        """Delete an old one that seals nothing any more. Returns those that are left."""
        return (await self._http.send(calls.retire_master_key(key_id))).data


class People(Resource):
    """Who is behind accounts: one's own, or any for administrators."""

    async def get(self, account: str) -> types.Person:
        return await self._http.send(calls.person(account))

    async def update(self, account: str, **fields: str | None) -> types.Person:
        """`display_name` and `email`: what is not given stays, None forgets."""
        return await self._http.send(calls.set_person(account, checked(types.PersonUpdate, {**fields})))

    async def export(self, account: str) -> JsonObject:
        """All that is kept of an account."""
        return (await self._http.send(calls.export(account))).model_dump(mode="json")

    async def erase(self, account: str) -> types.Erased:
        """For administrators, and for good: nothing personal is left, the account is disabled."""
        return await self._http.send(calls.erase(account))
