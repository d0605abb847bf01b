"""Files by Landlock: some folders can be read, and nothing else can be opened. Needs no privilege."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from raymill.evaluate.sandbox.kernel import (
    LANDLOCK_ADD_RULE,
    LANDLOCK_CREATE_RULESET,
    LANDLOCK_RESTRICT_SELF,
    PR_SET_NO_NEW_PRIVS,
    Refused,
    prctl,
    system_call,
)

ASK_VERSION = 1
PATH_BENEATH = 1
EXECUTE, READ_FILE, READ_DIR = 1, 4, 8


def handled(version: int) -> int:
    """Every kind of access that this version of Landlock can deny."""
    return (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1


def read_only(paths: Iterable[Path]) -> None:
    """From now on this process can read what lies under `paths`, and open nothing else.

    Raises:
        Refused: the kernel has no Landlock.
    """
    try:
        version = system_call("landlock", LANDLOCK_CREATE_RULESET, None, 0, ASK_VERSION)
        attributes = ctypes.create_string_buffer(struct.pack("=Q", handled(version)), 8)
        rules = system_call("landlock", LANDLOCK_CREATE_RULESET, attributes, 8, 0)
        for path in paths:
            _allow(rules, path)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        system_call("landlock", LANDLOCK_RESTRICT_SELF, rules, 0)
        os.close(rules)
    except OSError as error:
        raise Refused(
            f"the kernel has no Landlock ({error}): use Linux 5.13 or newer with landlock in its list of lsm, "
            "or isolation: full"
        ) from error


def _allow(rules: int, path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(
            f"the program's user cannot read {path} ({error.strerror}): evaluate as another user than root, with a "
            "Python that everybody may read, or say isolation: full"
        ) from error
    is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    access = EXECUTE | READ_FILE | (READ_DIR if is_directory else 0)
    rule = ctypes.create_string_buffer(struct.pack("=Qi", access, descriptor), 12)
    system_call("landlock", LANDLOCK_ADD_RULE, rules, PATH_BENEATH, rule, 0)
    os.close(descriptor)
