"""The resource of the blocking client for searches."""

from __future__ import annotations

from collections.abc import Iterator

from raymill.client import search_endpoints as endpoints
from raymill.client import search_types as types
from raymill.client.endpoints import Id
from raymill.client.sync_control import Resource
from raymill.client.types import ImageFormat


class Searches(Resource):
    """Searches for the best values of a recipe's fields, and their trials."""

    def list(self, *, name: str | None = None, limit: int | None = None) -> Iterator[types.Search]:
        """Newest first, without their trials."""
        return self._http.items(endpoints.searches(name), limit)

    def get(self, search_id: Id) -> types.Search:
        """By the id of its job or of its pipeline, with its trials."""
        return self._http.send(endpoints.search(search_id))

    def plot(self, search_id: Id, *, kind: types.PlotKind = "curves", format: ImageFormat = "svg") -> bytes:
        """The loss of each trial over its steps, or the values of all trials side by side, as an image."""
        return self._http.fetch(endpoints.plot(search_id), {"kind": kind, "format": format})
