"""Why work failed, as the retries of the job engine need to know it."""

from __future__ import annotations

import errno

import psycopg
from sqlalchemy.exc import DBAPIError

from raymill.policies.errors import RaymillError, Unavailable
from raymill.registry.database import is_away
from raymill.registry.jobs import ErrorClass

OUT_OF_MEMORY = frozenset({"OutOfMemoryError", "MemoryError"})
"""By name: torch's and Ray's have it too, and neither is imported here."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE})


def classify(error: BaseException) -> ErrorClass:
    """The class of an error that work has raised."""
    if isinstance(error, RaymillError):
        return ErrorClass.TRANSIENT if isinstance(error, Unavailable) else ErrorClass.INPUT
    if type(error).__name__ in OUT_OF_MEMORY or (isinstance(error, OSError) and error.errno in FULL):
        return ErrorClass.RESOURCE
    if isinstance(error, ConnectionError | TimeoutError):
        return ErrorClass.TRANSIENT
    if isinstance(error, DBAPIError | psycopg.Error) and is_away(error):
        return ErrorClass.TRANSIENT
    return ErrorClass.UNEXPECTED
