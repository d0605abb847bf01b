"""How the audit log proves itself: what a row's hash covers, and the walk that finds what was changed.

A row's hash is sha256 over the hash before it and the row's canonical JSON, so that nothing changes inside the log
without a trace. The end of the log, and a log that was hashed anew from some row on, are vouched for by roots: Merkle
tree hashes over the rows' hashes, signed (`registry/audit_roots.py`) and kept elsewhere. Knows no database and no key.

An exported log has one line for each row, and not a byte of it can differ:

    {"hash":"<64 hex>","row":<canonical JSON, seq last>}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from raymill.policies.errors import RaymillError
from raymill.registry.artifacts import canonical_json
from raymill.registry.merkle import Tree

GENESIS = bytes(32)
_HASH = b'{"hash":"'
_ROW = b'","row":'
_ROW_AT = len(_HASH) + 64
_CONTENT_AT = _ROW_AT + len(_ROW)


class AuditBroken(RaymillError):
    """The log is not what was written."""

    code = "audit_broken"


@dataclass(frozen=True, kw_only=True)
class Root:
    """What a log was when its root was taken."""

    rows: int
    root: str
    """Merkle tree hash over the rows' hashes, hex."""

    head: str
    """Hash of the last row, hex."""

    at: str
    """When it was taken: ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A log that is whole."""

    rows: int
    head: bytes
    """Hash of the last row; `GENESIS` where there is none."""

    root: bytes
    """Merkle tree hash over all rows."""

    vouched: int
    """Rows that a root vouches for; later ones hang on the chain alone."""


class Chain:
    """Takes a log row by row, and holds it against roots that were taken of it.

    Args:
        roots: in any order.
    """

    def __init__(self, roots: Sequence[Root] = ()) -> None:
        self.head = GENESIS
        self.tree = Tree()
        self._roots: dict[int, list[Root]] = {}
        for root in roots:
            self._roots.setdefault(root.rows, []).append(root)
        self._hold()

    def fits(self, content: bytes, hash_: bytes) -> bool:
        """Whether `hash_` is that of a row with `content` after the last one."""
        return hashlib.sha256(self.head + content).digest() == hash_

    def take(self, hash_: bytes) -> None:
        """The next row, which the caller knows to fit.

        Raises:
            AuditBroken: a root is of another log.
        """
        self.head = hash_
        self.tree.add(hash_)
        if self.tree.size in self._roots:
            self._hold()

    def end(self) -> Checked:
        """The log ends here.

        Raises:
            AuditBroken: a root was taken of a longer one.
        """
        newest = max(self._roots, default=0)
        if newest > self.tree.size:
            raise AuditBroken(
                f"the log ends after row {self.tree.size}, a root was taken of {newest} rows: "
                "restore the missing rows from a backup"
            )
        return Checked(rows=self.tree.size, head=self.head, root=self.tree.root(), vouched=newest)

    def _hold(self) -> None:
        for root in self._roots.get(self.tree.size, ()):
            if root.root != self.tree.root().hex() or root.head != self.head.hex():
                raise AuditBroken(
                    f"the first {root.rows} rows are not those that the root of {root.at} was taken of: "
                    "the log was written anew, compare it with a backup"
                )


def changed(seq: int) -> AuditBroken:
    return AuditBroken(f"audit row {seq} is not what was written: compare it with a backup")


def missing(seq: int, found: int) -> AuditBroken:
    return AuditBroken(f"audit row {seq} is missing, row {found} follows: restore it from a backup")


def said_of(row: Mapping[str, Any]) -> bytes:
    """The canonical JSON of a row but for its number, which the database gives it: up to `"seq":`.

    What a row has not is left out of it for `address`, `before` and `after`, which older rows do not know.
    """
    optional = {key: row[key] for key in ("address", "after", "before") if row.get(key) is not None}
    named = {key: row[key] for key in ("action", "actor", "at", "detail", "object", "request_id")}
    return canonical_json({**named, **optional})[:-1] + b',"seq":'


def as_kept(value: Any) -> Any:
    """JSON as Postgres' `jsonb` gives it back: it keeps numbers as decimals, without an exponent or a negative zero."""
    if isinstance(value, float):
        if value == 0:
            return 0.0
        return int(Decimal(text)) if "e+" in (text := repr(value)) else value
    if isinstance(value, Mapping):
        return {str(key): as_kept(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_kept(item) for item in value]
    return value


def line(content: bytes, hash_: bytes) -> bytes:
    """A row of an exported log."""
    return b"%b%b%b%b}\n" % (_HASH, hash_.hex().encode(), _ROW, content)


def verify_lines(lines: Iterable[bytes], roots: Sequence[Root] = ()) -> Checked:
    """Walk an exported log, byte by byte.

    Raises:
        AuditBroken: a row was changed, added, left out or moved, or a root is of another log.
    """
    chain = Chain(roots)
    for number, each in enumerate(lines, start=1):
        content = each[_CONTENT_AT:-2]
        hash_ = hashlib.sha256(chain.head + content).digest()
        if (
            each[:_CONTENT_AT] != b"%b%b%b" % (_HASH, hash_.hex().encode(), _ROW)
            or each[-2:] != b"}\n"
            or not content.endswith(b',"seq":%d}' % number)
        ):
            raise changed(number)
        chain.take(hash_)
    return chain.end()
