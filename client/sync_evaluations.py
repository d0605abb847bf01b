"""The blocking client's comparisons of measured versions."""

from __future__ import annotations

from raymill.client import evaluation_endpoints as calls
from raymill.client import evaluation_types as types
from raymill.client.sync_control import Resource
from raymill.client.types import ImageFormat


class Evaluations(Resource):
    """How versions compare. One is named `support@3`, `support@production`, `support@3:Q4_K_M` or `support@3:base`."""

    def compare(self, a: str, b: str, *, task: str | None = None) -> types.VersionComparison:
        """A verdict on A against B for each task that both were measured on, example by example."""
        return self._http.send(calls.compare(a, b, task))

    def compare_plot(self, a: str, b: str, *, task: str | None = None, image: ImageFormat = "png") -> bytes:
        """The differences with their intervals, as a picture."""
        return self._http.fetch(calls.plot_path("compare"), calls.plot_query(image, a=a, b=b, task=task))

    def leaderboard(
        self, *, task: str | None = None, model: str | None = None, limit: int | None = None
    ) -> types.Leaderboard:
        """Scores by task, the best first; of the `limit` newest (100 by default)."""
        return self._http.send(calls.leaderboard(task, model, limit))

    def leaderboard_plot(
        self,
        *,
        task: str | None = None,
        model: str | None = None,
        limit: int | None = None,
        image: ImageFormat = "png",
    ) -> bytes:
        """The scores with their intervals, as a picture."""
        query = calls.plot_query(image, task=task, model=model, limit=limit)
        return self._http.fetch(calls.plot_path("leaderboard"), query)
