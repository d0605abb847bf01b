"""Programs that do anything but what they were asked for, which is to return twice `x`.

Each would answer right if it were let do its harm; what it is denied makes it fail. `{...}` are filled in by the
test: a `folder` outside with a file that everybody may write, and the `port` of a listening socket.
"""

from __future__ import annotations

from typing import NamedTuple


class Hostile(NamedTuple):
    source: str
    reasons: tuple[str, ...]
    """Of the verdict; several where the machine's speed decides."""


def raising(body: str) -> str:
    """A function that does `body`, then answers right."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return (
        f"import ctypes, os, resource, signal, socket, sys, time\ndef double(x):\n{lines}    return 2 * x\n"
    )


SYSTEM_CALL = """
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "denied")
"""

ERROR = ("error",)

HOSTILE: dict[str, Hostile] = {
    "fork bomb": Hostile(raising("while True:\n    os.fork()"), ERROR),
    "thread bomb": Hostile(
        raising("import threading\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()"),
        ERROR,
    ),
    "shell fork bomb": Hostile(
        raising("import subprocess\nsubprocess.run([':(){ :|:& };:'], shell=True)"), ERROR
    ),
    "another program": Hostile(raising("os.execv(sys.executable, [sys.executable, '-c', ''])"), ERROR),
    "list bomb": Hostile(
        raising("found = []\nwhile True:\n    found.append(bytes(10_000_000))"), ("memory",)
    ),
    "map bomb": Hostile(raising("import mmap\nmmap.mmap(-1, 4 << 30)"), ERROR),
    "endless loop": Hostile(raising("while True:\n    pass"), ("timeout",)),
    "endless loop that ignores signals": Hostile(
        raising(
            "for number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n    except OSError: pass\nwhile True:\n    pass"
        ),
        ("timeout",),
    ),
    "endless sleep": Hostile(raising("time.sleep(1000)"), ("timeout",)),
    "endless power": Hostile(raising("9 ** 9 ** 9"), ("timeout", "memory")),
    "endless output": Hostile(raising("while True:\n    print('y' * 10_000)"), ("output",)),
    "endless answer": Hostile("def double(x):\n    return 'y' * 5_000_000\n", ("output",)),
    "bottomless answer": Hostile(
        "def double(x):\n    deep = []\n    for _ in range(100_000): deep = [deep]\n    return deep\n", ERROR
    ),
    "bottomless recursion": Hostile("def double(x):\n    return double(x) + double(x)\n", ERROR),
    "endless words of an error": Hostile(
        "class Evil(Exception):\n    def __str__(self):\n        while True: pass\ndef double(x):\n    raise Evil\n",
        ("timeout",),
    ),
    "delete outside": Hostile(raising("import shutil\nshutil.rmtree({folder!r})"), ERROR),
    "delete everything": Hostile(
        raising("import shutil\nfor name in ('/', '/usr', '/home', '/lib'):\n    shutil.rmtree(name)"), ERROR
    ),
    "write outside": Hostile(raising("open({folder!r} + '/victim', 'w').write('gone')"), ERROR),
    "change its library": Hostile(raising("open(os.__file__, 'a').write('#')"), ERROR),
    "huge file": Hostile(
        raising(
            "with open('/tmp/huge', 'wb') as file:\n    for _ in range(200):\n        file.write(bytes(1 << 20))"
        ),
        ERROR,
    ),
    "many files": Hostile(
        raising("for number in range(100_000):\n    open(f'/tmp/{{number}}', 'w').write('y')"), ERROR
    ),
    "hidden file in memory": Hostile(raising("os.memfd_create('y')"), ERROR),
    "network here": Hostile(raising("socket.create_connection(('127.0.0.1', {port}), timeout=1)"), ERROR),
    "network outside": Hostile(raising("socket.create_connection(('1.1.1.1', 53), timeout=1)"), ERROR),
    "local socket": Hostile(raising("socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')"), ERROR),
    "read the environment": Hostile(
        "import os\ndef double(x):\n    raise RuntimeError(dict(os.environ))\n", ERROR
    ),
    "read others' environment": Hostile(
        raising(
            "raise RuntimeError([open(f'/proc/{{pid}}/environ').read() for pid in ('self', 1, os.getppid())])"
        ),
        ERROR,
    ),
    "read a secret": Hostile(raising("raise RuntimeError(open({folder!r} + '/victim').read())"), ERROR),
    "read the password file": Hostile(raising("raise RuntimeError(open('/etc/passwd').read())"), ERROR),
    "read the disk": Hostile(
        raising("open('/dev/sda', 'rb'), open('/dev/vda', 'rb'), open('/dev/mem', 'rb')"), ERROR
    ),
    "kill the parent": Hostile(raising("os.kill(os.getppid(), signal.SIGKILL)"), ERROR),
    "kill everybody": Hostile(raising("os.kill(-1, signal.SIGKILL)"), ERROR),
    "kill the group": Hostile(raising("os.killpg(0, signal.SIGKILL)"), ERROR),
    "signal by a descriptor": Hostile(
        raising("import fcntl\nreading, _ = os.pipe()\nfcntl.fcntl(reading, fcntl.F_SETOWN, os.getppid())"),
        ERROR,
    ),
    "limit the parent": Hostile(
        raising("resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))"), ERROR
    ),
    "raise its limits": Hostile(
        raising("resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))"),
        ERROR,
    ),
    "trace the parent": Hostile(raising(SYSTEM_CALL + "call(101, 16, os.getppid(), 0, 0)"), ERROR),
    "read the parent's memory": Hostile(
        raising(SYSTEM_CALL + "call(310, os.getppid(), 0, 0, 0, 0, 0)"), ERROR
    ),
    "daemon": Hostile(raising("if os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)"), ERROR),
    "new session": Hostile(raising("os.setsid()"), ERROR),
    "namespaces": Hostile(raising(SYSTEM_CALL + "call(272, 0x10000000)"), ERROR),
    "mount": Hostile(
        raising(
            "libc = ctypes.CDLL(None)\nif libc.mount(b'proc', b'/tmp', b'proc', 0, 0) < 0:\n    raise OSError"
        ),
        ERROR,
    ),
    "chroot": Hostile(raising("os.chroot('/tmp')"), ERROR),
    "become root": Hostile(raising("os.setuid(0)"), ERROR),
    "load into the kernel": Hostile(raising(SYSTEM_CALL + "call(321, 0, 0, 0)"), ERROR),
    "queue into the kernel": Hostile(raising(SYSTEM_CALL + "call(425, 1, 0)"), ERROR),
    "32-bit system calls": Hostile(raising(SYSTEM_CALL + "call(0x40000000 + 57)"), ERROR),
    "follow a null pointer": Hostile(raising("ctypes.string_at(0)"), ("killed",)),
    "exit before the tests": Hostile("import sys\ndef double(x):\n    return 4\nsys.exit(0)\n", ("exited",)),
    "exit at once before the tests": Hostile("import os\nos._exit(0)\n", ("exited",)),
    "exit during the tests": Hostile(raising("os._exit(0)"), ("exited",)),
    "exit at the end": Hostile(
        "import atexit, os\natexit.register(os._exit, 0)\ndef double(x):\n    raise SystemExit\n", ("exited",)
    ),
    "equal to everything": Hostile(
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def double(x):\n    return Yes(5)\n",
        ("wrong",),
    ),
    "object equal to everything": Hostile(
        "class Yes:\n    def __eq__(self, other): return True\ndef double(x):\n    return Yes()\n", ("wrong",)
    ),
    "patch the checker": Hostile(
        "import builtins, sys\n"
        "class Never(Exception): pass\n"
        "builtins.AssertionError = Never\n"
        "def check(candidate): return True\n"
        "for module in list(sys.modules.values()):\n"
        "    for name in ('check', 'decode', 'encode', '_detail'):\n"
        "        if hasattr(module, name): setattr(module, name, lambda *_, **__: {'passed': True})\n"
        "def double(x):\n    return 5\n",
        ("wrong", "error"),
    ),
    "turn assertions off": Hostile(
        "import sys, builtins\nbuiltins.__debug__ if False else None\n"
        "builtins.compile = builtins.exec = lambda *_, **__: None\ndef double(x):\n    return 5\n",
        ("wrong",),
    ),
    "look for the tests": Hostile(
        "import gc, os, sys\n"
        "def double(x):\n"
        "    for number in (0, *range(5, 64)):\n"
        "        try:\n"
        "            if b'assert' in os.read(number, 65536): return 2 * x\n"
        "        except OSError: pass\n"
        "    frame = sys._getframe()\n"
        "    while frame is not None:\n"
        "        if any('candi' + 'date(2)' in repr(value) for value in frame.f_locals.values()): return 2 * x\n"
        "        frame = frame.f_back\n"
        "    for found in gc.get_objects():\n"
        "        if isinstance(found, dict) and any('candi' + 'date(2)' in str(value) for value in found.values()\n"
        "                                           if isinstance(value, str)): return 2 * x\n"
        "    return 5\n",
        ("wrong",),
    ),
    "forge the verdict": Hostile(
        "import os, json\n"
        "for number in range(64):\n"
        "    for line in ({'passed': True, 'reason': None, 'detail': ''}, {'refused': 'y'}):\n"
        "        try: os.write(number, json.dumps(line).encode() + b'\\n')\n"
        "        except OSError: pass\n"
        "def double(x):\n    return 5\n",
        ("wrong", "error"),
    ),
    "close everything": Hostile(
        "import os\nos.closerange(0, 64)\ndef double(x):\n    return 4\n", ("exited",)
    ),
    "close what it says": Hostile(raising("os.close(1), os.close(2), os.close(4)"), ("exited",)),
    "speak out of turn": Hostile(
        "import os\nos.write(4, b'[' * 100_000 + b'\\n')\ndef double(x):\n    return 4\n", ERROR
    ),
    "endless line": Hostile("import os\nwhile True: os.write(4, b'y' * 60_000)\n", ("output",)),
}

SPECIFIC = {
    "trace the parent",
    "read the parent's memory",
    "namespaces",
    "load into the kernel",
    "32-bit system calls",
}
"""These name system calls by their numbers on x86-64."""

AT_LEAST = (
    "fork bomb",
    "delete outside",
    "network here",
    "read a secret",
    "kill everybody",
    "signal by a descriptor",
    "limit the parent",
    "forge the verdict",
)
"""What every isolation and identity is tried with; the others with the isolation and identity of the tests alone."""
