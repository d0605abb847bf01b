"""What can go wrong between a client and the service.

An answer with an error body becomes an `ApiError`; each is also the error of `policies/errors.py` that
says the same, so a caller may catch either.

    RaymillError
    ├── ApiError          the service answered with an error
    │   ├── BadRequest    400, 413, 415, 422: also Invalid
    │   ├── Refused       401, 403: also Denied
    │   ├── Missing       404, 410: also NotFound
    │   ├── Clash         409, 412: also Conflict
    │   └── ServerAway    429, 502, 503, 504, 507, and from 500 on what is no error body of ours: also Unavailable
    ├── Unreachable       no answer at all: also Unavailable
    └── WaitedTooLong     `wait` gave up; the work goes on
"""

from __future__ import annotations

from raymill.policies.errors import Conflict, Denied, Invalid, NotFound, RaymillError, Unavailable


class ApiError(RaymillError):
    """The service answered, and said no."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "error",
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        RaymillError.__init__(self, message)
        self.message = message
        self.status = status
        """HTTP status."""
        self.code = code
        """The word a program can match on."""
        self.param = param
        """Which field of the request, such as `train.lora.r`."""
        self.request_id = request_id
        """Finds the request in the service's logs."""


class BadRequest(ApiError, Invalid):
    """What was sent is wrong."""


class Refused(ApiError, Denied):
    """The key is unknown, or may not do this."""


class Missing(ApiError, NotFound):
    """There is nothing by that name."""


class Clash(ApiError, Conflict):
    """The state of things forbids it."""


class ServerAway(ApiError, Unavailable):
    """The service, or a part of it, cannot answer now."""


class Unreachable(Unavailable):
    """The connection failed."""

    code = "unreachable"

    def __init__(self, message: str, *, arrived: bool) -> None:
        super().__init__(message)
        self.arrived = arrived
        """The request may have reached the service; False when there was no connection at all."""


class WaitedTooLong(RaymillError):
    """`wait` gave up. What was waited for goes on."""

    code = "timeout"


BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    413: BadRequest,
    415: BadRequest,
    422: BadRequest,
    401: Refused,
    403: Refused,
    404: Missing,
    410: Missing,
    409: Clash,
    412: Clash,
    429: ServerAway,
    502: ServerAway,
    503: ServerAway,
    504: ServerAway,
    507: ServerAway,
}


def api_error(
    status: int,
    message: str,
    *,
    code: str = "error",
    param: str | None = None,
    request_id: str | None = None,
) -> ApiError:
    """The error class that belongs to an HTTP status."""
    kind = BY_STATUS.get(status, ApiError)
    return kind(message, status=status, code=code, param=param, request_id=request_id)
