"""What the kernel takes away from a program, in the order in which it is taken.

    unshare_all     in a process of its own: namespaces; its parent maps the users
    new_root        in the first process of the pid namespace: a root that holds the standard library, read only
    confine         in each process that runs foreign code: resources, identity, capabilities, system calls

Units: seconds of processor time, bytes.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sysconfig
from pathlib import Path
from typing import NamedTuple

from raymill.evaluate.sandbox import landlock, seccomp
from raymill.evaluate.sandbox.kernel import (
    LIBC,
    MOUNT_SETATTR,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Refused,
    checked,
    machine,
    prctl,
    system_call,
)

NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
"""user, mount, pid, network, ipc, uts, cgroup"""

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
AT_RECURSIVE = 0x8000
READ_ONLY = 1 | 2 | 4
"""MOUNT_ATTR_RDONLY, NOSUID, NODEV"""

NOBODY = 65534
"""A user who owns nothing. In the namespaces, 1 stands for it."""

CAPABILITY_VERSION_3 = 0x20080522

SCAFFOLD = Path("/sys")
"""Where the new root is put together: a folder of every Linux that holds nothing we need."""

FOLDER = Path("/tmp")
"""The program's own folder in the new root, and where it starts."""

CURE = (
    "allow user namespaces (sysctl user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0; "
    "in a container a seccomp profile that lets unshare and mount through), or say isolation: reduced"
)


class Resources(NamedTuple):
    """What one process may use."""

    cpu_s: int
    memory_bytes: int
    file_bytes: int
    open_files: int


def library_paths() -> list[Path]:
    """What the interpreter reads as it runs: its library, and the system's shared objects."""
    own = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    found = {*own, *(Path(path).resolve() for path in system)}
    outermost: list[Path] = []
    for path in sorted(found):
        if path.exists() and not any(path.is_relative_to(other) for other in outermost):
            outermost.append(path)
    return outermost


def unshare_all() -> None:
    """Namespaces of this process's own; the next process that it starts is the first of the pid namespace.

    Raises:
        Refused: the kernel grants none.
    """
    try:
        checked(LIBC.unshare(ctypes.c_int(NAMESPACES)), "unshare")
    except OSError as error:
        raise Refused(f"the kernel grants no namespaces ({error}): {CURE}") from error


def map_users(pid: int) -> None:
    """Called by the parent of the process that has unshared: who is who in its user namespace.

    Root there is whoever starts us; where that is root itself, 1 is nobody, whom the programs run as.

    Raises:
        Refused: the kernel takes no map.
    """
    folder = Path(f"/proc/{pid}")
    try:
        if os.geteuid() != 0:
            (folder / "setgroups").write_text("deny")
        more = f"\n1 {NOBODY} 1" if os.geteuid() == 0 else ""
        (folder / "uid_map").write_text(f"0 {os.geteuid()} 1{more}")
        (folder / "gid_map").write_text(f"0 {os.getegid()} 1{more}")
    except OSError as error:
        raise Refused(f"users cannot be mapped into a namespace ({error}): {CURE}") from error


def new_root(folder_bytes: int) -> None:
    """A root in memory: the library, read only, /dev/null, and one folder of `folder_bytes`. No /proc.

    Raises:
        Refused: the kernel lets us mount nothing.
    """
    try:
        _mount(None, Path("/"), MS_REC | MS_PRIVATE)
        _mount("tmpfs", SCAFFOLD, MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
        for path in [*library_paths(), Path(os.devnull)]:
            _bind(path, SCAFFOLD / path.relative_to("/"))
        for name in ("lib", "lib64"):
            if (link := Path("/") / name).is_symlink():
                (SCAFFOLD / name).symlink_to(link.readlink())
        folder = SCAFFOLD / FOLDER.relative_to("/")
        folder.mkdir()
        _mount(
            "tmpfs", folder, MS_NOSUID | MS_NODEV | MS_NOEXEC, f"size={folder_bytes},nr_inodes=4096,mode=1777"
        )
        os.chdir(SCAFFOLD)
        system_call("pivot_root", machine().pivot_root, b".", b".")
        checked(LIBC.umount2(b".", MNT_DETACH), "umount2")
        os.chdir(FOLDER)
        _set_read_only(Path("/"), 0)
        checked(LIBC.sethostname(b"sandbox", 7), "sethostname")
    except OSError as error:
        raise Refused(
            f"a root of its own cannot be mounted ({error}); it needs Linux 5.12 or newer: {CURE}"
        ) from error


def _bind(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(source), target, MS_BIND | MS_REC)
    if source != Path(os.devnull):
        _set_read_only(target, AT_RECURSIVE)


def _mount(source: str | None, target: Path, flags: int, options: str | None = None) -> None:
    kind = b"tmpfs" if source == "tmpfs" else None
    given = [None if text is None else str(text).encode() for text in (source, target, options)]
    result = LIBC.mount(given[0], given[1], kind, ctypes.c_ulong(flags), given[2])
    checked(result, f"mount {target.name or '/'}")


def _set_read_only(path: Path, flags: int) -> None:
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", READ_ONLY, 0, 0, 0), 32)
    system_call("mount_setattr", MOUNT_SETATTR, -100, str(path).encode(), flags, attributes, 32)


def confine(resources: Resources, *, user: int | None, namespaced: bool) -> None:
    """Leave this process nothing but its computation. Cannot be taken back.

    Args:
        user: whom it becomes; None: it stays who it is.
        namespaced: it lives in the namespaces and the root above; False: Landlock stands in for them.

    Raises:
        Refused: the kernel lacks what that needs.
    """
    _limit(resources)
    _become(user)
    # After the identity, whose change would undo both. It ends with the process that waits for it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_DUMPABLE, 0)
    if not namespaced:
        landlock.read_only([*library_paths(), Path(os.devnull)])
    os.environ.clear()
    seccomp.install(may_change_files=namespaced)


def _limit(resources: Resources) -> None:
    limits = {
        resource.RLIMIT_AS: resources.memory_bytes,
        resource.RLIMIT_FSIZE: resources.file_bytes,
        resource.RLIMIT_NOFILE: resources.open_files,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for what, limit in limits.items():
        _, hard = resource.getrlimit(what)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (least, least))
    # A second later comes SIGKILL, for those that do not heed SIGXCPU.
    resource.setrlimit(resource.RLIMIT_CPU, (resources.cpu_s, resources.cpu_s + 1))


def _become(user: int | None) -> None:
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), 8)
    none = ctypes.create_string_buffer(24)
    system_call("capset", machine().capset, header, none)
