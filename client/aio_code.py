"""The resource of the asyncio client for code analysis: what `sync_code.py` has, awaiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from raymill.client import code_endpoints as calls
from raymill.client import code_types, types
from raymill.client.aio_control import Resource, until_over
from raymill.client.endpoints import Id
from raymill.client.validation import checked


class Code(Resource):
    """Submitted code: its findings, its rebuilt form, and how the two compare."""

    async def submit(
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
        return await self._http.send(calls.submit(body), idempotency_key)

    async def get(self, submission_id: Id) -> code_types.SubmissionDetail:
        """With findings, dossier, rebuilt code and report, as far as there are any."""
        return await self._http.send(calls.submission(submission_id))

    def list(
        self, *, state: types.State | None = None, limit: int | None = None
    ) -> AsyncIterator[code_types.Submission]:
        """Newest first."""
        return self._http.items(calls.submissions(state), limit)

    async def answers(self, submission_id: Id) -> Sequence[code_types.CodeAnswer]:
        """Every answer of a model, also those that could not be used."""
        return (await self._http.send(calls.answers(submission_id))).data

    async def cancel(self, submission_id: Id) -> code_types.SubmissionDetail:
        return await self._http.send(calls.cancel(submission_id))

    async def delete(self, submission_id: Id) -> code_types.SubmissionDetail:
        """Forget the code and all that was found and said of it, once it is over."""
        return await self._http.send(calls.delete(submission_id))

    async def retry(self, submission_id: Id) -> code_types.SubmissionDetail:
        """Run the steps again that ended badly, and those that waited for them."""
        return await self._http.send(calls.retry(submission_id))

    def events(self, submission_id: Id, *, after: int | None = None) -> AsyncIterator[types.JobEvent]:
        """Events of its steps until it ends, each once."""
        return self._http.events(calls.events(submission_id), after)

    async def wait(self, submission_id: Id, *, timeout_s: float | None = None) -> code_types.SubmissionDetail:
        """The submission once it is over, however it ended.

        Raises:
            WaitedTooLong: it is not over after `timeout_s`.
        """
        return await until_over(
            self._http, calls.submission(submission_id), f"submission {submission_id}", timeout_s
        )

    async def steps(self) -> Sequence[code_types.CodeStepVersion]:
        """How each step asks its model now."""
        return (await self._http.send(calls.steps())).data

    async def set_step(
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
        return await self._http.send(calls.set_step(step, checked(code_types.CodeStepSettings, given)))

    async def versions(self, step: code_types.Step) -> Sequence[code_types.CodeStepVersion]:
        """Newest first."""
        return (await self._http.send(calls.versions(step))).data

    async def use_step(self, step: code_types.Step, version: int) -> code_types.CodeStepVersion:
        """Use an earlier version of a step again."""
        return await self._http.send(
            calls.use_step(step, checked(code_types.CodeStepUse, {"version": version}))
        )

    async def canary(self, step: code_types.Step) -> Sequence[code_types.CodeTrial]:
        """What was measured of the submissions of each version, side by side."""
        return (await self._http.send(calls.canary(step))).data

    async def set_canary(
        self, step: code_types.Step, version: int | None, *, share: float = 0.1
    ) -> Sequence[code_types.CodeTrial]:
        """Try a version on a share of the submissions; None ends that."""
        body = checked(code_types.CodeCanary, {"version": version, "share": share})
        return (await self._http.send(calls.set_canary(step, body))).data

    async def start_experiment(
        self, fault: code_types.Fault, *, share: float = 1.0, delay_s: float = 1.0, seconds: float = 60.0
    ) -> code_types.CodeExperiment:
        """Put a fault into the steps for a while.

        Raises:
            Forbidden: the service runs in production mode.
        """
        given = {"fault": fault, "share": share, "delay_s": delay_s, "seconds": seconds}
        body = checked(code_types.CodeExperimentRequest, given)
        return await self._http.send(calls.start_experiment(body))

    async def stop_experiment(self, experiment_id: Id) -> code_types.CodeExperiment:
        return await self._http.send(calls.stop_experiment(experiment_id))

    def experiments(self, *, limit: int | None = None) -> AsyncIterator[code_types.CodeExperiment]:
        """Newest first; those that have ended too."""
        return self._http.items(calls.experiments(), limit)
