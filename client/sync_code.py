"""The resource of the blocking client for code analysis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from raymill.client import code_endpoints as calls
from raymill.client import code_types, types
from raymill.client.endpoints import Id
from raymill.client.sync_control import Resource, until_over
from raymill.client.validation import checked


class Code(Resource):
    """Submitted code: its findings, its rebuilt form, and how the two compare."""

    def submit(
        self,
        *,
        code: str | None = None,
        files: Mapping[str, str] | None = None,
        patch: str | None = None,
        language: str | None = None,
        comment: str = "",
        tests: types.JsonObject | None = None,
        idempotency_key: str | None = None,
    ) -> code_types.Submission:
        """Submit one of `code`, `files` (name -> text) and `patch` (a unified diff).

        The same key and code give the same submission.
        """
        given = {
            "code": code,
            "files": [{"name": name, "text": text} for name, text in files.items()]
            if files is not None
            else None,
            "patch": patch,
            "language": language,
            "comment": comment,
            "tests": tests,
        }
        body = checked(code_types.SubmissionRequest, given)
        return self._http.send(calls.submit(body), idempotency_key)

    def get(self, submission_id: Id) -> code_types.SubmissionDetail:
        """With findings, dossier, rebuilt code and report, as far as there are any."""
        return self._http.send(calls.submission(submission_id))

    def list(
        self, *, state: types.State | None = None, limit: int | None = None
    ) -> Iterator[code_types.Submission]:
        """Newest first."""
        return self._http.items(calls.submissions(state), limit)

    def answers(self, submission_id: Id) -> Sequence[code_types.CodeAnswer]:
        """Every answer of a model, also those that could not be used."""
        return self._http.send(calls.answers(submission_id)).data

    def cancel(self, submission_id: Id) -> code_types.SubmissionDetail:
        return self._http.send(calls.cancel(submission_id))

    def delete(self, submission_id: Id) -> code_types.SubmissionDetail:
        """Forget the code and all that was found and said of it, once it is over."""
        return self._http.send(calls.delete(submission_id))

    def retry(self, submission_id: Id) -> code_types.SubmissionDetail:
        """Run the steps again that ended badly, and those that waited for them."""
        return self._http.send(calls.retry(submission_id))

    def events(self, submission_id: Id, *, after: int | None = None) -> Iterator[types.JobEvent]:
        """Events of its steps until it ends, each once."""
        return self._http.events(calls.events(submission_id), after)

    def wait(self, submission_id: Id, *, timeout_s: float | None = None) -> code_types.SubmissionDetail:
        """The submission once it is over, however it ended.

        Raises:
            WaitedTooLong: it is not over after `timeout_s`.
        """
        return until_over(
            self._http, calls.submission(submission_id), f"submission {submission_id}", timeout_s
        )

    def steps(self) -> Sequence[code_types.CodeStepVersion]:
        """How each step asks its model now."""
        return self._http.send(calls.steps()).data

    def set_step(
        self,
        step: code_types.Step,
        *,
        model: str,
        fallback: str | None = None,
        prompt: str | None = None,
        params: types.JsonObject | None = None,
        max_tokens: int = 4096,
        timeout_s: float = 120.0,
        note: str = "",
        use: bool = True,
    ) -> code_types.CodeStepVersion:
        """Another version of a step, used from now on; or kept, to be tried as a canary."""
        given = {
            "model": model,
            "fallback": fallback,
            "prompt": prompt,
            "params": params or {},
            "max_tokens": max_tokens,
            "timeout_s": timeout_s,
            "note": note,
            "use": use,
        }
        return self._http.send(calls.set_step(step, checked(code_types.CodeStepSettings, given)))

    def versions(self, step: code_types.Step) -> Sequence[code_types.CodeStepVersion]:
        """Newest first."""
        return self._http.send(calls.versions(step)).data

    def use_step(self, step: code_types.Step, version: int) -> code_types.CodeStepVersion:
        """Use an earlier version of a step again."""
        return self._http.send(calls.use_step(step, checked(code_types.CodeStepUse, {"version": version})))

    def canary(self, step: code_types.Step) -> Sequence[code_types.CodeTrial]:
        """What was measured of the submissions of each version, side by side."""
        return self._http.send(calls.canary(step)).data

    def set_canary(
        self, step: code_types.Step, version: int | None, *, share: float = 0.1
    ) -> Sequence[code_types.CodeTrial]:
        """Try a version on a share of the submissions; None ends that."""
        body = checked(code_types.CodeCanary, {"version": version, "share": share})
        return self._http.send(calls.set_canary(step, body)).data

    def start_experiment(
        self, fault: code_types.Fault, *, share: float = 1.0, delay_s: float = 1.0, seconds: float = 60.0
    ) -> code_types.CodeExperiment:
        """Put a fault into the steps for a while.

        Raises:
            Forbidden: the service runs in production mode.
        """
        given = {"fault": fault, "share": share, "delay_s": delay_s, "seconds": seconds}
        body = checked(code_types.CodeExperimentRequest, given)
        return self._http.send(calls.start_experiment(body))

    def stop_experiment(self, experiment_id: Id) -> code_types.CodeExperiment:
        return self._http.send(calls.stop_experiment(experiment_id))

    def experiments(self, *, limit: int | None = None) -> Iterator[code_types.CodeExperiment]:
        """Newest first; those that have ended too."""
        return self._http.items(calls.experiments(), limit)
