"""What Ray calls the process of a heavy job, and where its dashboard shows it."""

from __future__ import annotations

import uuid

from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.policies.errors import NotFound

DRIVER = "ray-job "
"""Before the submission id, in the name of a worker that is a driver."""


def submission_id(job_id: uuid.UUID, epoch: int) -> str:
    return f"{job_id}-{epoch}"


def ray_job_page(settings: Settings, worker: str | None) -> str | None:
    """The page of the attempt that `worker` is the driver of; None: it is none, or no service runs here."""
    if worker is None or not worker.startswith(DRIVER):
        return None
    try:
        dashboard = read_service(settings).dashboard_url
    except NotFound:
        return None
    return f"{dashboard}/#/jobs/{worker.removeprefix(DRIVER)}"
