"""Asks a model over HTTP, on OpenAI's wire, many questions at once, and keeps each answer the moment it is there.

    once       an answer that is in the log is not asked for again, by this attempt or the next
    bounded    so many requests at a time; a 429 rests all of them for as long as it asks
    again      408, 5xx, a broken connection, a timeout or an answer that is none: later and later, a few times
    refused    another 4xx is the question's own end (a content filter, too long): recorded, and not asked again
    given up   a key or a model that is refused, or no answer at all for long: the job ends; what came is kept

Knows nothing of tasks. Times are seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import httpx

from raymill.cluster.retry_after import retry_after_s
from raymill.evaluate.prompts import Conversation, call_text
from raymill.evaluate.samples import SampleLog
from raymill.evaluate.target_config import AskConfig
from raymill.policies.errors import Conflict, Denied, Invalid, NotFound, RaymillError, Unavailable
from raymill.registry.artifacts import canonical_json

AGAIN = frozenset({408, 409, 425, 500, 502, 503, 504, 529})
"""409: another request with this Idempotency-Key is being answered, one of the attempt before."""

POLL_S = 0.5
TELL_S = 1.0
"""Progress is told this often."""

BASE_S, CAP_S = 0.5, 30.0
"""The wait before try n is random, up to BASE_S * 2^n, and never above CAP_S (full jitter)."""

LEAST_REST_S = 0.02
"""After a 429, also one that says 0: all requests would come again at once."""

REFUSALS = 8
"""So many refused questions and not one answer are no fault of the questions."""

SAID_CHARS = 300


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request. `key` tells it from the others of its job, in every attempt."""

    key: str
    messages: Conversation
    max_tokens: int
    tools: tuple[dict[str, Any], ...] = ()
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request: temperature, seed, response_format."""


class Reply(TypedDict):
    """A line of the log."""

    key: str
    request: str
    """sha256 of the request, hex."""

    text: str
    """The answer; calls of tools as `prompts.call_text` writes them. Empty where it was refused."""

    finished: bool
    """The model ended its answer; False: it was cut at `max_tokens`, or refused."""

    prompt_tokens: int
    completion_tokens: int
    error: str
    """Why the question was refused; empty for an answer."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to ask, and by what name."""

    url: str
    """Up to `/v1`."""

    model: str
    key: Callable[[], str | None] = lambda: None
    """The bearer key of the moment. It is sent, and appears in no message."""

    idempotent: bool = False
    """Whether it keeps answers under an Idempotency-Key, as our gateway does: a request that a killed attempt had sent
    is then neither answered nor paid twice."""


class Usage(NamedTuple):
    """What answers took, as the endpoint told it."""

    answers: int
    refused: int
    prompt_tokens: int
    completion_tokens: int


class _Request(NamedTuple):
    """A question as it is sent."""

    key: str
    content: bytes
    digest: str
    """sha256 of the content, hex."""


class _Again(Exception):
    """A try that failed and may go better."""

    def __init__(self, why: str, wait_s: float | None = None, *, limited: bool = False) -> None:
        super().__init__(why)
        self.wait_s = wait_s
        self.limited = limited


class Asker:
    """An endpoint, with the answers that it has given to a job."""

    def __init__(
        self,
        endpoint: Endpoint,
        config: AskConfig,
        log: SampleLog,
        *,
        job_id: str,
        check: Callable[[], None] = lambda: None,
        progress: Callable[[str, int, int], None] = lambda label, done, total: None,  # noqa: ARG005
    ) -> None:
        """
        Args:
            log: of this endpoint in this job; what an earlier attempt left in it counts.
            check: raises when the job must stop.
            progress: told a label, and how many of its questions have been answered.
        """
        self.endpoint = endpoint
        self.config = config
        self._log = log
        self._job_id = job_id
        self._check = check
        self._progress = progress
        self._replies: dict[str, Reply] = {line["key"]: Reply(**line) for line in log.records}  # type: ignore[typeddict-item]
        self._rest_until = 0.0
        self._heard_at = self._told_at = 0.0

    def ask(self, label: str, questions: Sequence[Question]) -> list[Reply]:
        """A reply to each of `questions`, in their order; those that the log has are not asked.

        Raises:
            Denied: the key is refused.
            NotFound: the endpoint has no such model.
            Invalid: it refuses everything.
            Conflict: it asks for a longer wait than the patience: a budget that is used up.
            Unavailable: it is away, or a question failed too often.
        """
        missing = [each for each in map(self._request, questions) if not self._has(each)]
        if missing:
            asyncio.run(self._ask(label, len(questions), deque(missing)))
        return [self._replies[each.key] for each in questions]

    def usage(self, keys: Sequence[str] | None = None) -> Usage:
        """Of the questions with these keys, or of all; each counts once."""
        replies = [
            self._replies[key] for key in (self._replies if keys is None else keys) if key in self._replies
        ]
        refused = sum(bool(each["error"]) for each in replies)
        return Usage(
            answers=len(replies) - refused,
            refused=refused,
            prompt_tokens=sum(each["prompt_tokens"] for each in replies),
            completion_tokens=sum(each["completion_tokens"] for each in replies),
        )

    def request_id(self, key: str) -> str:
        """How the gateway's records call the requests of a question, in whichever attempt."""
        return hashlib.sha256(f"{self._job_id}/{key}".encode()).hexdigest()[:32]

    def _has(self, request: _Request) -> bool:
        known = self._replies.get(request.key)
        return known is not None and known["request"] == request.digest

    def _request(self, question: Question) -> _Request:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": question.messages,
            "max_tokens": question.max_tokens,
        }
        if question.tools:
            body["tools"] = list(question.tools)
        if self.config.temperature is not None:
            body["temperature"] = self.config.temperature
        content = canonical_json({**body, **question.more})
        return _Request(question.key, content, hashlib.sha256(content).hexdigest())

    def _keep(self, reply: Reply) -> None:
        self._log.add([dict(reply)])
        self._replies[reply["key"]] = reply
        if reply["error"] and not self.usage().answers and self.usage().refused >= REFUSALS:
            raise Invalid(f"{self.endpoint.model} refuses every question: {reply['error']}")

    async def _ask(self, label: str, total: int, queue: deque[_Request]) -> None:
        self._heard_at = time.monotonic()
        done = total - len(queue)

        async def work(client: httpx.AsyncClient) -> None:
            nonlocal done
            while queue:
                self._keep(await self._one(client, queue.popleft()))
                done += 1
                if done == total or time.monotonic() - self._told_at >= TELL_S:
                    self._told_at = time.monotonic()
                    self._progress(label, done, total)

        async with httpx.AsyncClient(
            timeout=self.config.timeout_s,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=self.config.concurrency),
        ) as client:
            pending = {
                asyncio.ensure_future(work(client)) for _ in range(min(self.config.concurrency, len(queue)))
            }
            everyone = set(pending)
            try:
                while pending:
                    ended, pending = await asyncio.wait(
                        pending, timeout=POLL_S, return_when=asyncio.FIRST_EXCEPTION
                    )
                    for task in ended:
                        task.result()
                    self._check()
            finally:
                for task in everyone:
                    task.cancel()
                await asyncio.gather(*everyone, return_exceptions=True)

    async def _one(self, client: httpx.AsyncClient, request: _Request) -> Reply:
        failures = 0
        while True:
            while (rest_s := self._rest_until - time.monotonic()) > 0:
                await asyncio.sleep(rest_s)
            try:
                reply = await self._post(client, request)
            except _Again as failed:
                wait_s = (
                    random.uniform(0, min(CAP_S, BASE_S * 2**failures))
                    if failed.wait_s is None
                    else failed.wait_s
                )
                if failed.limited:
                    self._rest(wait_s, str(failed))
                else:
                    failures += 1
                    if failures >= self.config.attempts:
                        raise Unavailable(
                            f"{self.endpoint.model} failed {failures} times at one question ({failed}): see that it is up, "
                            "then `raymill jobs retry` goes on with what is missing"
                        ) from None
                    await asyncio.sleep(wait_s)
            else:
                self._heard_at = time.monotonic()
                return reply

    def _rest(self, wait_s: float, why: str) -> None:
        """Everybody waits: the limit is of all requests together. Raises Conflict: longer than the patience."""
        now = time.monotonic()
        silent_s = now + wait_s - self._heard_at
        if silent_s > self.config.patience_s:
            raise Conflict(
                f"{self.endpoint.model} asks to wait until {wait_s:.0f} s from now ({why}), and patience_s is "
                f"{self.config.patience_s:g}: raise its limit or budget, then `raymill jobs retry` goes on with what is missing"
            )
        self._rest_until = max(self._rest_until, now + wait_s)

    async def _post(self, client: httpx.AsyncClient, request: _Request) -> Reply:
        key = self.endpoint.key()
        request_id = self.request_id(request.key)
        headers = {"content-type": "application/json", "x-request-id": request_id}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        if self.endpoint.idempotent:
            headers["idempotency-key"] = request_id
        try:
            response = await client.post(
                f"{self.endpoint.url}/chat/completions", content=request.content, headers=headers
            )
        except httpx.TimeoutException:
            raise _Again(f"no answer within {self.config.timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise _Again(" ".join(str(error).split())[:SAID_CHARS] or type(error).__name__) from None
        if response.status_code == 200:
            return reply_of(response.content, request.key, request.digest)
        said = said_by(response, key)
        if response.status_code == 429:
            asked = {name.lower(): value for name, value in response.headers.raw}
            wait_s = retry_after_s(asked)
            raise _Again(
                said, 1.0 + random.random() if wait_s is None else max(wait_s, LEAST_REST_S), limited=True
            )
        if response.status_code in AGAIN:
            raise _Again(said)
        if (final := self._final(response.status_code, said)) is not None:
            raise final
        return Reply(
            key=request.key,
            request=request.digest,
            text="",
            finished=False,
            prompt_tokens=0,
            completion_tokens=0,
            error=said,
        )

    def _final(self, status: int, said: str) -> RaymillError | None:
        """What no other question would fare better with."""
        if status in {401, 403}:
            return Denied(f"{self.endpoint.model} refuses the key: {said}: give a key that may ask it")
        if status == 404:
            return NotFound(
                f"{self.endpoint.url} does not answer for {self.endpoint.model}: {said}: name a model that it has"
            )
        if 300 <= status < 400:
            return Invalid(
                f"{self.endpoint.url} answered {status}, and redirects are not followed: give its own address"
            )
        return None


def reply_of(content: bytes, key: str, request: str) -> Reply:
    """Raises _Again: it is no answer on OpenAI's wire."""
    try:
        answer = json.loads(content)
        (choice, *_) = answer["choices"]
        message, usage = choice["message"], answer.get("usage") or {}
        text = message.get("content") or ""
        text += "".join(map(call_text_of, message.get("tool_calls") or ()))
        return Reply(
            key=key,
            request=request,
            text=text,
            finished=choice.get("finish_reason") != "length",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            error="",
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Again(f"its answer is none on OpenAI's wire ({type(error).__name__}: {error})") from None


def call_text_of(call: dict[str, Any]) -> str:
    """One call as the models here write it; arguments that are no JSON stay text, for the reader to refuse."""
    function = call["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments or "{}")
    return call_text({"function": {"name": function["name"], "arguments": arguments}})


def said_by(response: httpx.Response, key: str | None) -> str:
    """The beginning of an error's message, on one line and without the key that was sent."""
    text = response.text
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = response.json()["error"]
        text = str(found["message"] if isinstance(found, dict) else found)
    if key:
        text = text.replace(key, "…")
    return f"{response.status_code}: {' '.join(text.split())[:SAID_CHARS]}"
