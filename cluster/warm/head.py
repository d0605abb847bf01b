"""`ray start`, with our script for workers that have a runtime environment: `python -m raymill.cluster.warm.head start …`.

Ray's command has no option for it. Its name must stay `setup_worker.py`: the raylet leaves it out for other workers.
"""

from __future__ import annotations

from pathlib import Path

from ray._private import ray_constants

from raymill.cluster.ray_start import main as ray_start
from raymill.cluster.warm import setup_worker


def main() -> None:
    # Joined to the folder of Ray's own, which an absolute path replaces.
    ray_constants.SETUP_WORKER_FILENAME = str(Path(setup_worker.__file__).resolve())
    ray_start()


if __name__ == "__main__":
    main()
