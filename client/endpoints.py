"""The calls of `/api/v1` as data: one function for each, used by both clients. Sends nothing."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast
from urllib.parse import quote

from pydantic import BaseModel

from raymill.client import types

Answer = TypeVar("Answer", bound=BaseModel)
Item = TypeVar("Item", bound=BaseModel)
Id = uuid.UUID | str
Query = Mapping[str, str | int | None]

PREFIX = "/api/v1"
PAGE_ITEMS = 100
VERIFY_TIMEOUT_S = 600.0
"""Reading tens of gigabytes takes minutes."""


@dataclass(frozen=True, kw_only=True)
class Call(Generic[Answer]):
    """One request, and the type of its answer. Everything but GET is sent with an idempotency key."""

    returns: type[Answer]
    path: str
    method: str = "GET"
    query: Query = field(default_factory=dict)
    """None values are left out."""
    body: BaseModel | None = None
    content: bytes | None = None
    """Sent as it is, in place of `body`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    """None: the client's default."""
    repeatable: bool = True
    """The service does it once however often it is sent. If not, it is sent again only when it never arrived."""

    @property
    def params(self) -> dict[str, str | int]:
        return {name: value for name, value in self.query.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[Item]):
    """A list that comes in pages."""

    item: type[Item]
    path: str
    query: Query = field(default_factory=dict)

    def page(self, cursor: str | None, size: int) -> Call[types.Page[Item]]:
        query = {**self.query, "limit": size, "cursor": cursor}
        # The item's type is known at run time only, which a type expression cannot say.
        returns = cast(type[types.Page[Item]], types.Page.__class_getitem__(self.item))
        return Call(returns=returns, path=self.path, query=query)


def at(*parts: Id | int) -> str:
    """Path below the prefix; each part is quoted, so a name cannot leave its place."""
    return "/".join([PREFIX, *(quote(str(part), safe="") for part in parts)])


# Pipelines


def create_pipeline(recipe: types.JsonObject) -> Call[types.Pipeline]:
    body = types.PipelineRequest(recipe=recipe)
    return Call(method="POST", path=at("pipelines"), body=body, returns=types.Pipeline)


def plan_pipeline(recipe: types.JsonObject) -> Call[types.Plan]:
    body = types.PipelineRequest(recipe=recipe, dry_run=True)
    return Call(method="POST", path=at("pipelines"), body=body, returns=types.Plan)


def pipeline(pipeline_id: Id) -> Call[types.Pipeline]:
    return Call(path=at("pipelines", pipeline_id), returns=types.Pipeline)


def pipelines(state: types.State | None, name: str | None) -> Listing[types.Pipeline]:
    return Listing(path=at("pipelines"), item=types.Pipeline, query={"state": state, "name": name})


def cancel_pipeline(pipeline_id: Id) -> Call[types.Pipeline]:
    return Call(method="POST", path=at("pipelines", pipeline_id, "cancel"), returns=types.Pipeline)


def pipeline_events(pipeline_id: Id) -> str:
    return at("pipelines", pipeline_id, "events")


# Jobs


def job(job_id: Id) -> Call[types.Job]:
    return Call(path=at("jobs", job_id), returns=types.Job)


def cancel_job(job_id: Id) -> Call[types.Job]:
    return Call(method="POST", path=at("jobs", job_id, "cancel"), returns=types.Job)


def job_events(job_id: Id) -> str:
    return at("jobs", job_id, "events")


def job_logs(job_id: Id, after: int, attempt: int | None) -> Call[types.LogChunk]:
    query = {"after": after, "attempt": attempt}
    return Call(path=at("jobs", job_id, "logs"), query=query, returns=types.LogChunk)


# Models and what is known of them


def llm(name: str, as_of: dt.datetime | None) -> Call[types.Llm]:
    return Call(path=at("llms", name), query=_at_time(as_of), returns=types.Llm)


def llms(as_of: dt.datetime | None) -> Listing[types.Llm]:
    return Listing(path=at("llms"), item=types.Llm, query=_at_time(as_of))


def version(name: str, number: int) -> Call[types.Version]:
    return Call(path=at("llms", name, "versions", number), returns=types.Version)


def versions(name: str) -> Listing[types.Version]:
    return Listing(path=at("llms", name, "versions"), item=types.Version)


def lineage(name: str, number: int) -> Call[types.Lineage]:
    return Call(path=at("llms", name, "versions", number, "lineage"), returns=types.Lineage)


def verify_version(name: str, number: int) -> Call[types.Verification]:
    path = at("llms", name, "versions", number, "verify")
    return Call(path=path, returns=types.Verification, timeout_s=VERIFY_TIMEOUT_S)


def deployments() -> Listing[types.Deployment]:
    return Listing(path=at("deployments"), item=types.Deployment)


# Accounts, keys, audit


def create_account(body: types.AccountRequest) -> Call[types.Account]:
    return Call(method="POST", path=at("accounts"), body=body, returns=types.Account, repeatable=False)


def accounts() -> Listing[types.Account]:
    return Listing(path=at("accounts"), item=types.Account)


def create_key(body: types.ApiKeyRequest) -> Call[types.NewApiKey]:
    return Call(method="POST", path=at("keys"), body=body, returns=types.NewApiKey, repeatable=False)


def revoke_key(key_id: Id) -> Call[types.ApiKey]:
    return Call(method="DELETE", path=at("keys", key_id), returns=types.ApiKey)


def keys() -> Listing[types.ApiKey]:
    return Listing(path=at("keys"), item=types.ApiKey)


def audit_events(kinds: Sequence[str], object_: str | None, actor: str | None) -> Listing[types.AuditEvent]:
    query = {"kinds": ",".join(kinds) or None, "object": object_, "actor": actor}
    return Listing(path=at("audit"), item=types.AuditEvent, query=query)


def verify_audit() -> Call[types.AuditCheck]:
    return Call(path=at("audit", "verify"), returns=types.AuditCheck, timeout_s=VERIFY_TIMEOUT_S)


def audit_root() -> Call[types.AuditRoot]:
    return Call(method="POST", path=at("audit", "roots"), returns=types.AuditRoot, timeout_s=VERIFY_TIMEOUT_S)


def audit_lines(after: int) -> Call[types.AuditLines]:
    return Call(path=at("audit", "lines"), query={"after": after}, returns=types.AuditLines)


def version_sbom(name: str, number: int) -> Call[types.SbomOfVersion]:
    return Call(path=at("llms", name, "versions", number, "sbom"), returns=types.SbomOfVersion)


def signing_keys() -> Call[types.Page[types.SigningKey]]:
    return Call(path=at("signing", "keys"), returns=types.Page[types.SigningKey])


def rotate_signing_key(body: types.RotateRequest) -> Call[types.SigningKey]:
    return Call(
        method="POST", path=at("signing", "rotate"), body=body, returns=types.SigningKey, repeatable=False
    )


def revoke_signing_key(key_id: str, body: types.RevokeRequest) -> Call[types.SigningKey]:
    path = at("signing", "keys", key_id, "revoke")
    return Call(method="POST", path=path, body=body, returns=types.SigningKey)


def _at_time(as_of: dt.datetime | None) -> Query:
    """A time without a zone is this machine's."""
    return {"as_of": as_of.astimezone().isoformat() if as_of else None}
