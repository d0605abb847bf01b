"""The wire types of logins: passwords, sessions, who one is. Imports nothing heavy."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from raymill.client.types import RoleName, Wire

MAX_PASSWORD_CHARS = 1024


class LoginRequest(BaseModel):
    """Body of `POST /api/v1/sessions`."""

    model_config = ConfigDict(extra="forbid")

    account: str = Field(max_length=64)
    password: str = Field(max_length=MAX_PASSWORD_CHARS, repr=False)


class RefreshRequest(BaseModel):
    """Body of `POST /api/v1/sessions/refresh`."""

    model_config = ConfigDict(extra="forbid")

    refresh_token: str = Field(max_length=200, repr=False)


class Tokens(Wire):
    """What a login is kept by. A refresh token works once."""

    session_id: uuid.UUID
    account: str
    role: RoleName
    access_token: str = Field(repr=False)
    """Send it as `Authorization: Bearer …`."""

    expires_at: dt.datetime
    """Of the access token."""

    refresh_token: str = Field(repr=False)
    session_expires_at: dt.datetime


class LoginSession(Wire):
    """A login that has not ended."""

    id: uuid.UUID
    account: str
    method: str
    """password or oidc."""

    address: str | None
    created_at: dt.datetime
    used_at: dt.datetime
    expires_at: dt.datetime
    revoked_at: dt.datetime | None = None
    current: bool = False
    """The one that asks."""


class Me(Wire):
    """Who the caller is."""

    account: str
    role: RoleName
    team: str | None
    session_id: uuid.UUID | None
    """None: the caller has an API key."""


class PasswordRequest(BaseModel):
    """Body of `PUT /api/v1/accounts/{name}/password`."""

    model_config = ConfigDict(extra="forbid")

    password: str = Field(max_length=MAX_PASSWORD_CHARS, repr=False)


class PasswordChange(PasswordRequest):
    """Body of `PUT /api/v1/password`: one's own."""

    current: str = Field(max_length=MAX_PASSWORD_CHARS, repr=False)


class PasswordSet(Wire):
    """A password was set; the sessions that it ended."""

    account: str
    ended_sessions: int


class OidcStart(BaseModel):
    """Body of `POST /api/v1/oidc/start`."""

    model_config = ConfigDict(extra="forbid")

    redirect_uri: str = Field(max_length=200)
    """`http://127.0.0.1:PORT/callback`, where the client listens."""


class OidcStarted(Wire):
    """A login that has begun."""

    url: str
    """Where the browser has to go."""

    state: str
    """What it brings back."""


class OidcFinish(BaseModel):
    """Body of `POST /api/v1/oidc/finish`: what the browser brought back."""

    model_config = ConfigDict(extra="forbid")

    state: str = Field(max_length=200)
    code: str = Field(max_length=4096, repr=False)
    iss: str | None = Field(default=None, max_length=200)
    """The issuer, where it says so (RFC 9207)."""


class IdentityRequest(BaseModel):
    """Body of `PUT /api/v1/accounts/{name}/identity`."""

    model_config = ConfigDict(extra="forbid")

    subject: str = Field(min_length=1, max_length=255)


class Identity(Wire):
    """Who an account is at the identity provider."""

    account: str
    issuer: str
    subject: str


class MasterKey(Wire):
    """A version of the key that seals secrets."""

    id: str
    current: bool
    created_at: dt.datetime
    secrets: int
    """How many are sealed under it."""


class Resealed(Wire):
    """The current master key, and how many secrets were sealed anew with it."""

    id: str
    resealed: int


class Person(Wire):
    """Who is behind an account."""

    account: str
    display_name: str = ""
    email: str = ""


class PersonUpdate(BaseModel):
    """Body of `PATCH /api/v1/accounts/{name}/person` (RFC 7396): what is left out stays, null forgets."""

    model_config = ConfigDict(extra="forbid")

    display_name: str | None = Field(default=None, max_length=200)
    email: str | None = Field(default=None, max_length=200)

    @model_serializer(mode="wrap")
    def _what_is_set(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if name in self.model_fields_set}


class Export(BaseModel):
    """All that is kept of an account."""

    model_config = ConfigDict(extra="allow")


class Erased(Wire):
    """Of this account nothing personal is left."""

    account: str
    erased_at: dt.datetime
