"""`raymill tls make`: an authority of one's own and a certificate by it, or a new certificate by the one that is there."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path

from raymill.cluster import tls
from raymill.cluster.listeners import machine_addresses
from raymill.cluster.settings import Settings
from raymill.policies.errors import RaymillError


def main() -> None:
    parser = argparse.ArgumentParser(prog="raymill tls make", description="Make a certificate.")
    parser.add_argument(
        "--name", action="append", default=[], help="host name or address, besides this machine's"
    )
    parser.add_argument("--days", type=int, default=tls.SERVER_DAYS)
    parser.add_argument("--out", type=Path, help="folder, `tls` in the home by default")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    try:
        names = list(dict.fromkeys([*given.name, *own_names()]))
        made = tls.make(given.out or Settings().home / "tls", names, days=given.days)
    except (RaymillError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    if given.json:
        files = {name: str(path) for name, path in made._asdict().items()}
        sys.stdout.write(json.dumps({**files, "names": names, "days": given.days}) + "\n")
        return
    sys.stdout.write(
        f"A certificate for {', '.join(names)}, for {given.days} days. For the service:\n"
        f"  export RAYMILL_TLS_CERT={made.cert} RAYMILL_TLS_KEY={made.key}\n"
        f"and for its clients, which need this file and no other:\n"
        f"  export RAYMILL_URL=https://{names[0]}:{Settings().tls_port} RAYMILL_CA_FILE={made.authority}\n"
    )


def own_names() -> list[str]:
    """What this machine is called by itself and by others."""
    addresses = [str(each) for each in machine_addresses() if not each.is_link_local]
    return list(dict.fromkeys([socket.gethostname(), socket.getfqdn(), "localhost", *addresses]))


if __name__ == "__main__":
    main()
