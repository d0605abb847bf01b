"""What the libraries behind fsspec raise, as errors that name the cure. They share no class, so the name decides."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from raymill.policies.errors import Denied, Invalid, NotFound, RaymillError, Unavailable

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "DefaultCredentialsError"}
)
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on every node, or give the machines a role",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS on every node, or give the machines a service account",
}


@contextmanager
def told(url: str) -> Iterator[None]:
    """
    Raises:
        Invalid: no library for such URLs is installed, or the URL is none.
        Denied: credentials are missing, or do not reach so far.
        NotFound: there is no such bucket.
        Unavailable: the store does not answer as it should.
    """
    scheme = url.partition("://")[0]
    cure = CREDENTIALS.get(
        scheme.replace("s3a", "s3").replace("gcs", "gs"), "let the service's user write there"
    )
    try:
        yield
    except RaymillError:
        raise
    except ImportError as error:
        package = PACKAGES.get(scheme, error.name or scheme)
        raise Invalid(f"{url} needs the package {package}: install it on every node") from error
    except (PermissionError, FileNotFoundError) as error:
        if isinstance(error, PermissionError):
            raise Denied(
                f"{url} refuses us ({_first(error)}): {cure}, with the right to list, read, write and delete"
            ) from error
        raise NotFound(
            f"{url} has no such place ({_first(error)}): make the bucket, or see RAYMILL_ARTIFACTS_URL"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of this disk
            raise
        raise _away(url, error) from error
    except Exception as error:  # botocore, google.auth and aiohttp have no base in common
        kind = type(error).__name__
        if kind in NO_CREDENTIALS:
            raise Denied(f"{url} asks for credentials, and there are none: {cure}") from error
        if isinstance(error, ValueError) and "rotocol" in str(error):
            raise Invalid(
                f"{url}: {_first(error)}; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///FOLDER"
            ) from error
        raise _away(url, error) from error


def _away(url: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"{url} does not answer as it should ({type(error).__name__}: {_first(error)}): see that it runs and is reached "
        "from here; AWS_ENDPOINT_URL names an S3 of one's own"
    )


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
