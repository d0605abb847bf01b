"""Data sets and uploads of the blocking client."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from raymill.client import dataset_endpoints as endpoints
from raymill.client import dataset_types as types
from raymill.client.sync_control import Resource
from raymill.client.types import Dataset, Job, JsonObject, Pipeline
from raymill.client.uploading import Progress, Sent, advance, upload_steps
from raymill.client.validation import checked
from raymill.policies.errors import RaymillError


class Uploads(Resource):
    """Files sent to the service in pieces."""

    def send(self, path: str | Path, *, progress: Progress | None = None) -> types.Upload:
        """Send a file, over broken connections and restarts of the service; one that was begun before goes on.

        Args:
            progress: called with the bytes that have arrived and those in all.

        Raises:
            BadRequest: it is too large for the service, or cannot be read.
            Unavailable: the service's disk is full, or it was away for longer than the retry's patience.
        """
        steps = upload_steps(Path(path), self._http.retry, progress)
        heard: types.Upload | RaymillError | None = None
        while not isinstance(step := advance(steps, heard), Sent):
            heard = None
            if isinstance(step, float):
                time.sleep(step)
                continue
            try:
                heard = self._http.send(step)
            except RaymillError as error:
                heard = error
        return step.upload

    def get(self, upload_id: str) -> types.Upload:
        return self._http.send(endpoints.upload(upload_id))


class Datasets(Resource):
    """Registered sets of rows."""

    def list(self, *, name: str | None = None, limit: int | None = None) -> Iterator[Dataset]:
        """Newest first."""
        return self._http.items(endpoints.datasets(name), limit)

    def get(self, name: str, number: int | None = None) -> types.DatasetDetail:
        """One version, the newest when `number` is None, with its statistics."""
        return self._http.send(endpoints.dataset(name, number))

    def add(
        self,
        name: str,
        train: str | Sequence[str],
        *,
        idempotency_key: str | None = None,
        **asked: object,
    ) -> Pipeline:
        """Check and register files; gives the pipeline that does it.

        Args:
            train: Paths that the service can read, or `upload:ID`.
            asked: What else `DatasetRequest` has: test, split, format, duplicates, contamination, purpose.
        """
        body = checked(types.DatasetRequest, {"name": name, "train": train, **asked})
        return self._http.send(endpoints.add_dataset(body), idempotency_key)

    def validate(self, train: str | Sequence[str], **asked: object) -> Job:
        """Start a check of files; nothing is registered. The job's result tells what is wrong."""
        return self._http.send(endpoints.validate(checked(types.CheckRequest, {"train": train, **asked})))

    def rows(
        self, name: str, *, number: int | None = None, part: types.Part = "train", limit: int | None = None
    ) -> Iterator[types.DatasetRow]:
        """Rows in normal form, page by page."""
        return self._http.items(endpoints.rows(name, number, part), limit)

    def token_stats(self, name: str, base: str, **asked: object) -> Job:
        """Start a count of tokens by a base's tokenizer; the job's result has it."""
        return self._http.send(
            endpoints.look(name, "stats", checked(types.TokenRequest, {"base": base, **asked}))
        )

    def preview(self, name: str, base: str, **asked: object) -> Job:
        """Start the rendering of rows as a base sees them; the job's result has them."""
        body = checked(types.TokenRequest, {"base": base, **asked})
        return self._http.send(endpoints.look(name, "preview", body))

    def from_traffic(
        self,
        name: str,
        *,
        route: str,
        since: dt.datetime,
        rows_as: Literal["conversations", "preferences"] = "conversations",
        idempotency_key: str | None = None,
        **asked: object,
    ) -> Pipeline:
        """Make a set of what was asked of a route, answered and corrected."""
        data: JsonObject = {"name": name, "route": route, "since": since, "rows_as": rows_as, **asked}
        return self._http.send(endpoints.from_traffic(checked(types.TrafficRequest, data)), idempotency_key)
