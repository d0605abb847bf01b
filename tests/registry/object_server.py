"""A local S3: moto's server, on a thread of this process and a free port of loopback."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

BUCKET = "raymill-test"
ACCESS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields the URL of a bucket. The environment says how it is reached, to child processes too."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with mock.patch.dict(os.environ, {**ACCESS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}):
        S3FileSystem.clear_instance_cache()
        try:
            S3FileSystem(use_listings_cache=False).mkdir(BUCKET)
            yield f"s3://{BUCKET}"
        finally:
            S3FileSystem.clear_instance_cache()
            server.stop()
