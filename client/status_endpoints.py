"""The call that asks how the service is doing, as data. Sends nothing."""

from __future__ import annotations

from raymill.client.endpoints import Call, at
from raymill.client.status_types import Status


def status() -> Call[Status]:
    return Call(path=at("status"), returns=Status)
