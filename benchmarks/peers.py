"""`make bench-peers`: install the systems that ours is measured against, outside the project's .venv.

Each lies in a folder of its own under `.bench/`. One that cannot be installed is named, with the reason, in
one line; `make bench-gateway` then reports it as null. Knows nothing of how they are started (`systems.py`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"

LITELLM = "litellm[proxy]==1.104.2"
PORTKEY = "@portkey-ai/gateway@1.15.2"
PROCRASTINATE = "procrastinate==3.10.0"

INSTALL_TIMEOUT_S = 600.0


def install_litellm() -> str | None:
    """Returns what went wrong, or None."""
    return _install("litellm", LITELLM)


def install_procrastinate() -> str | None:
    """Returns what went wrong, or None."""
    return _install("procrastinate", PROCRASTINATE, "psycopg[binary,pool]==3.3.9")


def _install(name: str, *packages: str) -> str | None:
    """Into a virtual environment of its own, with the project's uv. Returns what went wrong, or None."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        return "uv is not in .venv: run make setup"
    home = BENCH / name
    python = home / "bin" / "python"
    return _run(
        [str(uv), "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(home)]
    ) or _run([str(uv), "pip", "install", "--quiet", "--python", str(python), *packages])


def install_portkey() -> str | None:
    """With npm, below `.bench/portkey`. Returns what went wrong, or None."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "node and npm are not on the PATH: install Node.js 18 or newer"
    return _run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(BENCH / "portkey"), PORTKEY]
    )


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return f"{Path(command[0]).name} took over {INSTALL_TIMEOUT_S:.0f} s: is the network there?"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    reason = lines[-1] if lines else f"exit status {done.returncode}"
    return f"{Path(command[0]).name} failed ({reason}): is the network there?"


def main() -> int:
    """Install all; 1 when one of them is missing at the end."""
    failed = 0
    peers = ((LITELLM, install_litellm), (PORTKEY, install_portkey), (PROCRASTINATE, install_procrastinate))
    for name, install in peers:
        print(f"bench-peers: {name} …", flush=True)
        reason = install()
        if reason is not None:
            failed = 1
            print(f"bench-peers: {name} is missing: {reason}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
