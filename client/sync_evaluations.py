"""The blocking client's evaluations of targets, and comparisons of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raymill.client import evaluation_endpoints as calls
from raymill.client import evaluation_types as types
from raymill.client.sync_control import Resource
from raymill.client.types import ImageFormat, JsonObject, Pipeline
from raymill.client.validation import checked
from raymill.evaluate.judge_config import Judgement
from raymill.evaluate.target_config import TargetEvaluation


class Evaluations(Resource):
    """Measuring targets, and how they compare. One is named `support@3`, `support@production`, `support@3:Q4_K_M`,
    `support@3:base`, `gateway:MODEL` or `https://HOST/v1#MODEL`."""

    def run(
        self,
        target: str,
        tasks: Sequence[str | JsonObject] = ("heldout_exact_match",),
        *,
        dataset: str | None = None,
        idempotency_key: str | None = None,
        **asked: object,
    ) -> Pipeline:
        """Measure a target; gives the pipeline of one step that does it.

        Args:
            tasks: As in a recipe; the paths in them are absolute.
            dataset: Whose held-out rows are asked: `NAME` or `NAME@NUMBER`.
            asked: What else `TargetEvaluation` has: limit, max_new_tokens, key_env, ask.

        Raises:
            Invalid: something of it is wrong, or the target cannot do a task.
        """
        given = {"target": target, "tasks": list(tasks), "dataset": dataset, **asked}
        return self._http.send(calls.run(checked(TargetEvaluation, given)), idempotency_key)

    def judge(
        self,
        a: str,
        b: str | None = None,
        *,
        judge: str,
        idempotency_key: str | None = None,
        **asked: object,
    ) -> Pipeline:
        """Have a model judge answers that were kept: A against B, or A alone by a rubric; gives the pipeline that does it.

        Args:
            judge: A name that the gateway answers for.
            asked: What else `Judgement` has: task, rubric, scale, limit, labels, name.
        """
        given = {"a": a, "b": b, "judge": judge, "kind": "pairwise" if b else "rubric", **asked}
        return self._http.send(calls.judge(checked(Judgement, given)), idempotency_key)

    def compare(self, a: str, b: str, *, task: str | None = None) -> types.VersionComparison:
        """A verdict on A against B for each task that both were measured on, example by example."""
        return self._http.send(calls.compare(a, b, task))

    def changed(
        self,
        a: str,
        b: str,
        *,
        task: str | None = None,
        better: types.Side = "either",
        limit: int | None = None,
    ) -> Iterator[types.ChangedSample]:
        """The examples of a task that the two did not answer alike, in the order of the data.

        Args:
            task: May be left out when they share one alone.
            better: Who did better on them: `a`, `b`, `either`, or `neither`, where answers differ and scores do not.
        """
        return self._http.items(calls.changed(a, b, task, better), limit)

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
