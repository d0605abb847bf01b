"""One question to a model, through the gateway: its answer is held against a schema, and asked for again at most twice.

Every answer is kept, with tokens, model and what was wrong with it. A model that is away is followed by the fallback; when
that is away too, the job engine tries again later, and an answer that could be used is not asked for twice.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import httpx

from raymill.cluster.context import JobContext
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, Unavailable
from raymill.registry import code
from raymill.registry.tables import CodeAnswer, new_id
from raymill.serve.code import prompts
from raymill.serve.code.answers import Answer, Unusable, read
from raymill.serve.code.faults import FAULTS
from raymill.serve.code.step_config import PROMPTS, StepConfig

TRIES = 3
"""Of one model: the first answer, and two more."""

LATER = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
MOST_ANSWER_BYTES = 8 << 20
KEPT_LETTERS = 2_000_000

Read = TypeVar("Read", bound=Answer)


class Step(NamedTuple):
    """Who asks, and how."""

    context: JobContext
    submission_id: uuid.UUID
    name: str
    version: int
    config: StepConfig


class Said(NamedTuple, Generic[Read]):
    """A usable answer."""

    answer: Read
    model: str
    tries: int


class Refused(Exception):
    """A model that does not answer this question, now or ever: `later` says which."""

    def __init__(self, reason: str, *, later: bool) -> None:
        super().__init__(reason)
        self.later = later


def ask(
    step: Step,
    schema: type[Read],
    parts: Sequence[tuple[str, str]],
    accept: Callable[[Read], None] = lambda _: None,
) -> Said[Read]:
    """Ask the step's models until one gives a usable answer.

    Args:
        accept: raises Unusable for what the schema cannot say.

    Raises:
        Unavailable: no model could be reached, or all say "later".
        Invalid: none came to a usable answer.
    """
    known = _known(step)
    if known is not None:
        with contextlib.suppress(Unusable):
            found = read(schema, known.content)
            accept(found)
            return Said(found, known.model, 0)
    reasons: list[str] = []
    later = False
    number = 0
    for model in step.config.models:
        problem: str | None = None
        for _ in range(TRIES):
            step.context.check()
            number += 1
            chat = prompts.messages(
                step.name, step.config.prompt or PROMPTS[step.name], schema, parts, problem
            )
            try:
                return Said(_usable(step, model, number, chat, schema, accept), model, number)
            except Unusable as error:
                problem = str(error)
            except Refused as error:
                later = later or error.later
                reasons.append(f"{model}: {error}")
                break
        else:
            reasons.append(f"{model} gave no usable answer, {TRIES} times; the last: {problem}")
    said = "; ".join(reasons)
    if later:
        raise Unavailable(f"step {step.name} found no model that answers now ({said}): it is tried again")
    raise Invalid(
        f"step {step.name} has no result ({said}): look at the answers, or set another model or prompt"
    )


def _known(step: Step) -> CodeAnswer | None:
    """What an earlier attempt was answered."""
    if step.context.epoch == 1:
        return None
    job_id = uuid.UUID(step.context.job_id)
    return step.context.database.patiently(lambda session: code.usable_answer(session, job_id, step.version))


def _usable(
    step: Step,
    model: str,
    number: int,
    chat: list[dict[str, str]],
    schema: type[Read],
    accept: Callable[[Read], None],
) -> Read:
    answer_id = new_id()
    started = time.monotonic()
    body = {
        **step.config.params,
        "model": model,
        "messages": chat,
        "max_tokens": step.config.max_tokens,
        "stream": False,
    }
    if (refusal := FAULTS.before_question(step.context)) is not None:
        raise Refused(refusal, later=True)
    whole = _post(body, f"code-{answer_id.hex}", step.config.timeout_s)
    latency_ms = (time.monotonic() - started) * 1000
    content, problem = _content(whole)
    found: Read | None = None
    if problem is None:
        try:
            found = read(schema, content)
            accept(found)
        except Unusable as error:
            problem = str(error)
    usage = whole.get("usage") or {}
    row = CodeAnswer(
        id=answer_id,
        submission_id=step.submission_id,
        job_id=uuid.UUID(step.context.job_id),
        step=step.name,
        epoch=step.context.epoch,
        number=number,
        step_version=step.version,
        model=model,
        request_id=f"code-{answer_id.hex}",
        problem=problem,
        content=_storable(content),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        latency_ms=latency_ms,
    )
    step.context.database.patiently(lambda session: code.add_answer(session, row))
    if problem is not None or found is None:
        raise Unusable(problem or "it is empty")
    return found


def _content(whole: dict[str, Any]) -> tuple[str, str | None]:
    """The answer's text, and why it is none."""
    try:
        choice = whole["choices"][0]
        message = choice["message"]
        content = message.get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", "the model's server sent no message"
    if not isinstance(content, str):
        return "", "its content is no text"
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        return content, "the model refuses to answer"
    if choice.get("finish_reason") == "length":
        return content, "it was cut off at max_tokens"
    return content, None


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0


def _storable(text: str) -> str:
    """Postgres takes no NUL and no half of a pair."""
    return text[:KEPT_LETTERS].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _post(body: dict[str, Any], request_id: str, timeout_s: float) -> dict[str, Any]:
    client, headers = CONNECTIONS.client(), {"x-request-id": request_id}
    try:
        response = client.post("/v1/chat/completions", json=body, headers=headers, timeout=timeout_s)
    except httpx.TimeoutException:
        raise Refused(f"no answer within {timeout_s:g} s", later=True) from None
    except httpx.HTTPError as error:
        raise Refused(f"the gateway cannot be reached ({type(error).__name__})", later=True) from None
    if response.status_code != 200:
        raise Refused(_reason(response), later=response.status_code in LATER)
    if len(response.content) > MOST_ANSWER_BYTES:
        raise Refused("its answer is too large", later=False)
    try:
        whole = response.json()
    except ValueError:
        whole = None
    return whole if isinstance(whole, dict) else {}


def _reason(response: httpx.Response) -> str:
    try:
        said = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = "no reason given"
    return f"{response.status_code}, {' '.join(said.split())[:200]}"


class Connections:
    """To the gateway, for all threads of the process; made when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    def client(self) -> httpx.Client:
        """It knows where the gateway is, and the key of the account that asks. Raises NotFound: no service runs."""
        with self._lock:
            if self._client is None:
                settings = Settings()
                self._client = httpx.Client(
                    base_url=settings.code_gateway_url or read_service(settings).url,
                    headers={"authorization": f"Bearer {settings.code_key}"},
                    trust_env=False,
                    limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
                )
            return self._client

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


CONNECTIONS = Connections()
atexit.register(CONNECTIONS.close)
