"""Values between the program and its tests, as lines of JSON: data, never objects with behaviour.

What Python's tests compare by value arrives as itself: None, numbers, text, bytes, lists, tuples, sets,
dictionaries, decimals and fractions. Subclasses arrive as what they derive from. Anything else, such as a
function, a generator or an object of a class of the program's own, arrives as an `Opaque` that equals nothing.
"""

from __future__ import annotations

import json
import os
from typing import Any

MOST_DIGITS_BITS = 64
"""Longer integers travel in hexadecimal, whose length has no limit."""


class Closed(BaseException):
    """The other side has gone. No `Exception`: tests must not take it for an error of the program."""


class TooLong(BaseException):
    """The other side says more in one line than it may."""


class Opaque:
    """A value that has no place in a line of JSON; `kind` names its class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encode(value: Any) -> Any:
    """`value` as JSON: a mapping of one key is the name of a type and its content."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() <= MOST_DIGITS_BITS else {"int": hex(number)}
    if isinstance(value, str):
        return (
            {"text": value.encode("utf-8", "surrogatepass").hex()} if _has_surrogates(value) else str(value)
        )
    if isinstance(value, float):
        return float(value)
    return _encode_compound(value)


def _encode_compound(value: Any) -> Any:
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            items = [encode(item) for item in value]
            return items if kind is list else {kind.__name__: items}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    kind = type(value)
    if (kind.__module__, kind.__qualname__) in {("decimal", "Decimal"), ("fractions", "Fraction")}:
        return {kind.__qualname__: str(value)}
    return {"opaque": str(kind.__name__)}


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def decode(data: Any) -> Any:
    """What `encode` was given.

    Raises:
        ValueError, TypeError, KeyError: the other side has sent what `encode` never makes.
    """
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    return DECODERS[kind](content)


def _decimal(content: str) -> Any:
    from decimal import Decimal

    return Decimal(content)


def _fraction(content: str) -> Any:
    from fractions import Fraction

    return Fraction(content)


DECODERS: dict[str, Any] = {
    "int": lambda content: int(content, 16),
    "text": lambda content: bytes.fromhex(content).decode("utf-8", "surrogatepass"),
    "tuple": lambda content: tuple(map(decode, content)),
    "set": lambda content: set(map(decode, content)),
    "frozenset": lambda content: frozenset(map(decode, content)),
    "dict": lambda content: {decode(key): decode(item) for key, item in content},
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda content: complex(*content),
    "Decimal": _decimal,
    "Fraction": _fraction,
    "opaque": lambda content: Opaque(str(content)),
}


class Line:
    """One end of two pipes. Lines come in by one and go out by the other."""

    def __init__(self, reads: int, writes: int, most_bytes: int) -> None:
        self._reads = reads
        self._writes = writes
        self._most_bytes = most_bytes
        self._rest = b""

    def send(self, message: Any) -> None:
        """Raises: Closed."""
        left = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while left:
                left = left[os.write(self._writes, left) :]
        except OSError:
            raise Closed from None

    def receive(self) -> Any:
        """Raises: Closed, TooLong; ValueError: it is no JSON."""
        while b"\n" not in self._rest:
            if len(self._rest) > self._most_bytes:
                raise TooLong
            try:
                more = os.read(self._reads, 65536)
            except OSError:
                raise Closed from None
            if not more:
                raise Closed
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)
