"""End what this service runs on a cluster that it joined: `raymill down` there.

    python -m raymill.cluster.leaving

Its applications go, and Serve with them unless somebody else has applications there. Heavy jobs that run go on.
"""

from __future__ import annotations

import logging
import time

import ray
from ray import serve
from sqlalchemy.exc import DBAPIError

from raymill.cluster.applications import FACES, ours
from raymill.cluster.settings import Settings

log = logging.getLogger(__name__)


def leave(settings: Settings) -> None:
    """Waits until it is done; the caller knows how long it may take."""
    ray.init(
        address=settings.address, namespace="raymill", log_to_driver=False, logging_level=logging.WARNING
    )
    database = settings.open_database(pool_size=1)
    names = set(serve.status().applications)
    try:
        with database.transaction() as session:
            mine = ours(session, names)
    except DBAPIError as error:
        log.warning("Postgres is away (%s): applications of models stay", type(error).__name__)
        mine = names & FACES
    database.close()
    for name in sorted(mine):
        serve.delete(name, _blocking=False)
    while mine & serve.status().applications.keys():
        time.sleep(0.5)
    others = sorted(serve.status().applications)
    if others:
        log.info("Serve stays for applications of others: %s", ", ".join(others))
    else:
        serve.shutdown()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    leave(Settings())


if __name__ == "__main__":
    main()
