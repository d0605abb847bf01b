"""`ray start` of a node that joins a head on loopback: `python -m tests.multinode.join start --address=… --block`.

Where 127.0.0.1 is kept as it is, Ray refuses a second node; where it does not, it takes the machine's own address
instead. Here it does neither.
"""

from __future__ import annotations

from typing import Any

from ray._private import ray_constants, services

from raymill.cluster import ray_start


def main() -> None:
    def keep(address: str, **_: Any) -> str:
        ray_constants.ENABLE_RAY_CLUSTER = False
        return address

    ray_constants.ENABLE_RAY_CLUSTER = True
    services.resolve_ip_for_localhost = lambda host: host
    services.canonicalize_bootstrap_address = keep
    ray_start.main()


if __name__ == "__main__":
    main()
