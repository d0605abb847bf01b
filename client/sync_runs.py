"""The blocking client's training runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from raymill.client import run_endpoints as calls
from raymill.client import run_types, types
from raymill.client.endpoints import Id
from raymill.client.sync_control import Resource
from raymill.client.validation import checked


class Runs(Resource):
    """Training runs: what they were told to do, how they went, what they made."""

    def list(
        self, *, state: types.State | None = None, name: str | None = None, limit: int | None = None
    ) -> Iterator[run_types.Run]:
        """Newest first."""
        return self._http.items(calls.runs(state, name), limit)

    def get(self, run_id: Id) -> run_types.RunDetail:
        return self._http.send(calls.run(run_id))

    def points(self, run_id: Id) -> run_types.RunPoints:
        """The curves, also of a run that goes on."""
        return self._http.send(calls.points(run_id))

    def compare(self, ids: Sequence[Id]) -> run_types.RunComparison:
        return self._http.send(calls.compare(ids))

    def plot(
        self,
        run_id: Id,
        *,
        others: Sequence[Id] = (),
        metrics: Sequence[str] = ("loss",),
        image: types.ImageFormat = "png",
    ) -> bytes:
        """A picture of the curves; those of `others` beside them."""
        return self._http.fetch(calls.plot_path(run_id), calls.plot_query(others, metrics, image))

    def card(self, run_id: Id) -> str:
        """The model card, with what is known of the model by now."""
        return self._http.fetch(calls.card_path(run_id), {}).decode()

    def export(self, run_id: Id, form: run_types.ExportForm, *, type: str = "F16") -> run_types.RunExport:
        """What there is to fetch of a run's model. A GGUF file that is not there yet is made: wait for its job."""
        body = checked(run_types.RunExportRequest, {"form": form, "type": type})
        return self._http.send(calls.export(run_id, body))

    def download(
        self, run_id: Id, export: run_types.RunExport, file: run_types.ExportFile, target: Path
    ) -> None:
        """One file of an export to `target`, checked against its sha256.

        Raises:
            RaymillError: other bytes arrived.
        """
        query = calls.file_query(export.form, export.type, file.path)
        self._http.download(calls.file_path(run_id), query, target, file.sha256)
