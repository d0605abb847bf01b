"""The system calls that are left to a program: what the interpreter needs to compute and to read its library.

A list of what is allowed. Everything else fails with EPERM: starting processes and threads, other programs,
sockets, signals to others, ptrace, mounts, namespaces, keys, shared memory, asynchronous input and output.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from raymill.evaluate.sandbox.kernel import PR_SET_NO_NEW_PRIVS, Refused, machine, prctl, system_call

TABLE = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, close 3 57, close_range 436 436,
lseek 8 62, open 2 -, openat 257 56, stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291, access 21 -,
faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17,
chdir 80 49, fchdir 81 50, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73,
select 23 -, pselect6 270 72, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22,
eventfd2 290 19, fadvise64 221 223, mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, madvise 28 233,
brk 12 214, msync 26 227, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132,
alarm 37 -, setitimer 38 103, getitimer 36 102, pause 34 -, getpid 39 172, getppid 110 173, gettid 186 178,
getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150,
getgroups 115 158, getpgrp 111 -, getpgid 121 155, getsid 124 156, futex 202 98, set_robust_list 273 99,
set_tid_address 218 96, rseq 334 293, membarrier 324 283, sched_yield 24 124, sched_getaffinity 204 123,
arch_prctl 158 -, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101,
gettimeofday 96 169, time 201 -, times 100 153, getrusage 98 165, getrlimit 97 163, sysinfo 99 179, uname 63 160,
getrandom 318 278, getcpu 309 168, umask 95 166, exit 60 93, exit_group 231 94, restart_syscall 219 128, wait4 61 260
"""
"""Name, its number on x86-64, on AArch64."""

CHANGES_FILES = """
creat 85 -, truncate 76 45, ftruncate 77 46, rename 82 -, renameat 264 38, renameat2 316 276, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36,
chmod 90 -, fchmod 91 52, fchmodat 268 53, utimensat 280 88, fsync 74 82, fdatasync 75 83
"""
"""Allowed where the only files that can be changed lie in a folder of the program's own."""

FCNTL, PRLIMIT64 = (72, 25), (302, 261)
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)
"""Of descriptors alone: F_SETOWN would let a program send signals."""

FAILS_AS = {(435, 435): errno.ENOSYS, (16, 29): errno.ENOTTY}
"""clone3, whose caller then tries clone; ioctl, as if nothing were a terminal."""

LOAD_WORD = 0x20
JUMP_IF_EQUAL = 0x15
RETURN = 0x06
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
KILL_PROCESS = 0x80000000
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16
SET_MODE_FILTER = 1


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def numbers(table: str, column: int) -> list[int]:
    """Of the calls that this processor has."""
    rows = [entry.split() for entry in table.replace("\n", " ").split(",")]
    return [int(row[1 + column]) for row in rows if row[1 + column] != "-"]


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """`struct sock_filter`."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def only_with(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow the call when the low 32 bits of its argument are one of `values`."""
    checks = [
        step
        for value in values
        for step in (instruction(JUMP_IF_EQUAL, value, 0, 1), instruction(RETURN, ALLOW))
    ]
    body = [
        instruction(LOAD_WORD, ARGUMENTS_AT + 8 * argument),
        *checks,
        instruction(RETURN, ERRNO | errno.EPERM),
    ]
    return [instruction(JUMP_IF_EQUAL, number, 0, len(body)), *body]


def returns(number: int, action: int) -> list[bytes]:
    return [instruction(JUMP_IF_EQUAL, number, 0, 1), instruction(RETURN, action)]


def build(*, may_change_files: bool) -> bytes:
    """The filter for this processor, as the kernel takes it.

    Raises:
        Refused: we have no table for it.
    """
    column, arch = machine().column, machine().audit_arch
    steps = [
        instruction(LOAD_WORD, ARCH_AT),
        instruction(JUMP_IF_EQUAL, arch, 1, 0),
        instruction(RETURN, KILL_PROCESS),  # a call in another processor's numbers, such as 32-bit x86
        instruction(LOAD_WORD, NUMBER_AT),
    ]
    for number in numbers(TABLE + ("," + CHANGES_FILES if may_change_files else ""), column):
        steps += returns(number, ALLOW)
    steps += only_with(FCNTL[column], 1, FCNTL_COMMANDS)
    steps += only_with(PRLIMIT64[column], 0, (0,))  # its own limits, nobody else's
    for pair, error in FAILS_AS.items():
        steps += returns(pair[column], ERRNO | error)
    return b"".join([*steps, instruction(RETURN, ERRNO | errno.EPERM)])


def install(*, may_change_files: bool) -> None:
    """Leave this process, for ever, the calls of the list.

    Raises:
        Refused: the kernel has no seccomp filters.
    """
    code = build(may_change_files=may_change_files)
    program = Program(len(code) // 8, code)
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        system_call("seccomp", machine().seccomp, SET_MODE_FILTER, 0, ctypes.byref(program))
    except OSError as error:
        raise Refused(
            f"the kernel takes no seccomp filter ({error}): use one with CONFIG_SECCOMP_FILTER"
        ) from error
