"""Calls of libc and the kernel that Python 3.11 has no function for. Linux only; standard library only."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38


class Machine(NamedTuple):
    """What differs between processors."""

    column: int
    """Of `seccomp.TABLE`."""

    audit_arch: int
    pivot_root: int
    seccomp: int
    capset: int


MACHINES = {
    "x86_64": Machine(column=0, audit_arch=0xC000003E, pivot_root=155, seccomp=317, capset=126),
    "aarch64": Machine(column=1, audit_arch=0xC00000B7, pivot_root=41, seccomp=277, capset=91),
}

# The same number on both.
MOUNT_SETATTR = 442
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446


class Refused(Exception):
    """The kernel does not grant what the isolation needs. The message names the cure."""


def machine() -> Machine:
    """This processor's numbers.

    Raises:
        Refused: it is one that we have no table of system calls for.
    """
    found = MACHINES.get(platform.machine())
    if found is None:
        raise Refused(
            f"no table of system calls for {platform.machine()}: evaluate code on x86-64 or AArch64"
        )
    return found


def checked(result: int, what: str) -> int:
    """`result`, or the OSError that libc left."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def system_call(what: str, number: int, *arguments: object) -> int:
    """A call by its number; integers are passed as 64 bits.

    Raises:
        OSError: the kernel's error.
    """
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return checked(LIBC.syscall(ctypes.c_long(number), *wide), what)


def prctl(option: int, value: int) -> None:
    """Raises: OSError."""
    zeros = (ctypes.c_ulong(0),) * 3
    checked(LIBC.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *zeros), f"prctl {option}")
