"""The base of every error that Raymill raises on purpose.

It lies in the lowest room because every other room imports it. A message names the value that was
wrong and what to do about it; `code` is the word a program can match on.

    RaymillError
    ├── NotFound          nothing by that name
    ├── Conflict          the state of things forbids it
    ├── Invalid           the input is wrong
    ├── Denied            the caller, or a policy, may not
    └── Unavailable       a part is away; trying again may help
"""


class RaymillError(Exception):
    """Something a user can act on. `str(error)` is one line: the value, then the cure."""

    code = "error"


class NotFound(RaymillError):
    code = "not_found"


class Conflict(RaymillError):
    code = "conflict"


class Invalid(RaymillError):
    code = "invalid"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        """Where in the input, such as `train.lora.r`; None when it is the whole."""


class Denied(RaymillError):
    code = "denied"


class Unavailable(RaymillError):
    code = "unavailable"
