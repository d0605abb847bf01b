"""Ways to tamper with an audit log, drawn at random: with an exported one, byte by byte, and with the rows in Postgres."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Sequence

from sqlalchemy import text
from sqlalchemy.orm import Session

Lines = list[bytes]


def flip(lines: Sequence[bytes], draw: random.Random) -> Lines:
    """One bit, anywhere in the file."""
    at = draw.randrange(len(lines))
    changed = bytearray(lines[at])
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    # Read as a file is: a newline may have come or gone.
    pieces = io.BytesIO(b"".join([changed, *lines[at + 1 : at + 2]])).readlines()
    return [*lines[:at], *pieces, *lines[at + 2 :]]


def delete(lines: Sequence[bytes], draw: random.Random) -> Lines:
    at = draw.randrange(len(lines))
    return [*lines[:at], *lines[at + 1 :]]


def swap(lines: Sequence[bytes], draw: random.Random) -> Lines:
    one, other = draw.sample(range(len(lines)), 2)
    swapped = list(lines)
    swapped[one], swapped[other] = lines[other], lines[one]
    return swapped


def truncate(lines: Sequence[bytes], draw: random.Random) -> Lines:
    return list(lines[: draw.randrange(len(lines))])


def repeat(lines: Sequence[bytes], draw: random.Random) -> Lines:
    at = draw.randrange(len(lines))
    return [*lines[: at + 1], *lines[at:]]


def forge(lines: Sequence[bytes], draw: random.Random) -> Lines:
    """Another actor in one row, and every hash from there on made to fit."""
    at = draw.randrange(len(lines))
    previous = bytes.fromhex(lines[at - 1][9:73].decode()) if at else bytes(32)
    forged = list(lines[:at])
    for number, each in enumerate(lines[at:]):
        content = each[81:-2]
        if number == 0:
            content = content.replace(b'"actor":"', b'"actor":"not-')
        previous = hashlib.sha256(previous + content).digest()
        forged.append(b'{"hash":"%b","row":%b}\n' % (previous.hex().encode(), content))
    return forged


KINDS: tuple[Callable[[Sequence[bytes], random.Random], Lines], ...] = (
    flip,
    delete,
    swap,
    truncate,
    repeat,
    forge,
)

UPDATES = (
    "actor = actor || '.'",
    "action = 'alias.remove'",
    "object = upper(object)",
    "detail = detail || '{\"more\": 1}'",
    "request_id = NULL",
    "address = '192.0.2.1'",
    "before = '{}'",
    "after = NULL",
    "at = at + interval '1 microsecond'",
    "hash = set_bit(hash, {bit}, 1 - get_bit(hash, {bit}))",
    "previous_hash = set_bit(previous_hash, {bit}, 1 - get_bit(previous_hash, {bit}))",
)


def tamper_in_database(session: Session, rows: int, draw: random.Random) -> str:
    """As the owner of the database can who puts triggers and privileges aside. Returns what was done.

    The caller rolls back.
    """
    session.execute(text("ALTER TABLE audit_event DISABLE TRIGGER USER"))
    session.execute(text("GRANT UPDATE, DELETE ON audit_event TO CURRENT_USER"))
    one, other = draw.sample(range(1, rows + 1), 2)
    kind = draw.choice(("update", "update", "delete", "swap", "truncate"))
    match kind:
        case "update":
            change = draw.choice(UPDATES).replace("{bit}", str(draw.randrange(256)))
            session.execute(text(f"UPDATE audit_event SET {change} WHERE seq = {one}"))
            return f"{change} in row {one}"
        case "delete":
            session.execute(text(f"DELETE FROM audit_event WHERE seq = {one}"))
        case "truncate":
            session.execute(text(f"DELETE FROM audit_event WHERE seq >= {one}"))
        case "swap":
            for seq, to in ((one, -1), (other, one), (-1, other)):
                session.execute(text(f"UPDATE audit_event SET seq = {to} WHERE seq = {seq}"))
    return f"{kind} {one} {other}"
