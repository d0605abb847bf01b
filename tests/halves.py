"""All tests in half the time: those that need the service in one process, the rest in another beside it.

    python -m tests.halves [ARGUMENTS OF PYTEST]

While the service's tests wait for processes to start and to be killed, the rest computes. Each half has a home and a
Postgres of its own and goes through its tests in pytest's order; what the service's says comes when it has ended.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from tempfile import TemporaryFile

NOTHING_PICKED = 5
"""How pytest ends where none of a half's tests were asked for."""


def main(arguments: list[str]) -> int:
    """Returns 0 when both halves passed, else pytest's code of one that did not."""
    pytest = [sys.executable, "-m", "pytest"]
    with TemporaryFile() as said:
        # A cache of its own: each half would write over what the other remembers of failures.
        command = [*pytest, "--half=service", "-o", "cache_dir=.pytest_cache/service", *arguments]
        with subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as service:
            rest = subprocess.run([*pytest, "--half=rest", *arguments], check=False).returncode
        said.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(said, sys.stdout.buffer)
        sys.stdout.flush()
    codes = {rest, service.returncode}
    return next(iter(codes - {0, NOTHING_PICKED}), NOTHING_PICKED if codes == {NOTHING_PICKED} else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
