"""What a request may use, and what it used: limits and budgets before, one usage record after.

Knows no HTTP. Money is integer micro-dollars, times are milliseconds.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.attempts import Attempts
from raymill.serve.gateway.bounds import bound_of
from raymill.serve.gateway.catalog import Target
from raymill.serve.gateway.meters import Hold, Limit, LimitReached, Meters
from raymill.serve.gateway.metrics import Metrics
from raymill.serve.gateway.money import cost
from raymill.serve.gateway.snapshot import Caller
from raymill.serve.gateway.spans import Span, Spans
from raymill.serve.gateway.split import Met
from raymill.serve.gateway.spool import Spool, TraceRecord, UsageRecord
from raymill.serve.gateway.wire import Ask, Refused
from raymill.serve.gateway.wires.usage import Tokens

log = logging.getLogger(__name__)

Outcome = Literal["ok", "error", "cancelled", "broken", "cached", "lost"]

BYTES_PER_TOKEN = 4
NO_TOKENS = Tokens(0, 0, 0)


@dataclass(frozen=True)
class Recorder:
    """What the entries of a replica share."""

    meters: Meters
    spool: Spool
    metrics: Metrics
    replica_id: uuid.UUID
    spans: Spans | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """How a request came."""

    caller: Caller
    id: uuid.UUID
    """Of its usage record; never used twice."""

    request_id: str
    """As the client knows it."""

    started: float
    """By `time.perf_counter`."""

    traceparent: str | None = None
    """W3C trace context of the caller."""


class Entry:
    """One request's use of its limits. `end` settles and records, once; later calls do nothing."""

    def __init__(self, recorder: Recorder, came: Came, ask: Ask, name: str) -> None:
        """`name` is the model name that was asked for."""
        self._recorder = recorder
        self._came = came
        self._caller = caller = came.caller
        self._ask = ask
        self._started = came.started
        self._hold: Hold | None = None
        self._open = False
        self._most_output: int | None = None
        self._span: Span | None = None
        self._first_token_ms: float | None = None
        self._record = UsageRecord(
            id=came.id,
            request_id=came.request_id,
            at=dt.datetime.now(dt.UTC),
            replica_id=recorder.replica_id,
            key_id=caller.key_id,
            account_id=caller.account_id,
            team_id=caller.team_id,
            operation=ask.operation,
            route=name,
            stream=ask.stream,
        )

    def meets(self, met: Met) -> None:
        """It is for an alias that has a canary. Before `reserve`, for what a killed replica leaves tells it too."""
        self._record = msgspec.structs.replace(self._record, canary_id=met.canary_id, arm=met.arm)

    @property
    def open(self) -> bool:
        """The request was let in, and is not recorded yet."""
        return self._open

    async def reserve(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Hold what the request may use at most.

        Returns:
            The targets that may be asked: with a budget, those whose price is known.

        Raises:
            Refused: 429 when a limit or budget is reached, 403 when no price is known, 503 when limits
                or records cannot be kept.
        """
        recorder = self._recorder
        try:
            if self._caller.limits:
                targets, needs = self._needs(targets)
                self._hold = recorder.meters.try_reserve(needs) or await recorder.meters.reserve(needs)
            recorder.spool.open_request(self._record)
        except LimitReached as reached:
            raise limit_refused(reached) from None
        except Unavailable as error:
            log.warning("a request is refused: %s", error)
            self._release()
            message = "limits or records cannot be kept just now: try again in a few seconds"
            raise Refused(503, "records_unavailable", message, headers={"retry-after": "1"}) from None
        if recorder.spans is not None:
            self._span = recorder.spans.begin(self._ask, self._came.traceparent)
        self._open = True
        return targets

    def _needs(self, targets: Sequence[Target]) -> tuple[Sequence[Target], list[tuple[Limit, int]]]:
        needs: list[tuple[Limit, int]] = []
        money: int | None = None
        for limit, kind in self._caller.limits_by_kind:
            if kind == "micro_usd":
                if money is None:
                    targets, money, self._most_output = bound_of(self._ask, targets)
                needs.append((limit, money))
            elif kind == "tokens":
                needs.append((limit, self._ask.size_bytes // BYTES_PER_TOKEN))
            elif kind == "requests" or self._ask.stream:
                needs.append((limit, 1))
        return targets, needs

    def first_token(self) -> None:
        """The first piece of the answer goes out now."""
        self._first_token_ms = (time.perf_counter() - self._started) * 1000

    def cached(self) -> None:
        """Answered from the cache: it costs nothing and counts as a request."""
        self.end("cached", 200)

    def end(
        self,
        outcome: Outcome,
        status: int,
        attempts: Attempts | None = None,
        *,
        target: Target | None = None,
        tokens: Tokens | None = None,
        text_bytes: int = 0,
        trace: TraceRecord | None = None,
    ) -> None:
        """Settle and record.

        Args:
            status: that the client saw.
            target: that answered, if one did.
            tokens: as the upstream told them; None: estimated when a target answered.
            text_bytes: of the answer's text, roughly, to estimate by.
        """
        if not self._open:
            return
        self._open = False
        asked = target or (attempts.target if attempts is not None else None)
        estimated = tokens is None and target is not None
        if tokens is None:
            tokens = NO_TOKENS if target is None else self._estimate(text_bytes)
        price = target.price if target is not None else None
        spent = cost(price, tokens) if price is not None else 0
        latency_ms = (time.perf_counter() - self._started) * 1000
        waited_ms = attempts.waited_s * 1000 if attempts is not None else 0.0
        record = msgspec.structs.replace(
            self._record,
            outcome=outcome,
            status=status,
            provider=asked.provider_name if asked is not None else "",
            model=asked.model if asked is not None else "",
            attempts=attempts.count if attempts is not None else 0,
            prompt_tokens=tokens.prompt,
            cached_tokens=tokens.cached,
            completion_tokens=tokens.completion,
            estimated=estimated,
            cost_micro_usd=spent,
            priced=price is not None or target is None,
            latency_ms=round(latency_ms, 3),
            first_token_ms=self._first_token_ms,
            overhead_ms=round(max(0.0, latency_ms - waited_ms), 3),
        )
        self._recorder.spool.close_request(record, self._settle(tokens, spent), trace)
        self._recorder.metrics.ended(record)
        if self._span is not None:
            self._span.end(record)

    def _settle(self, tokens: Tokens, spent: int) -> list[tuple[str, int, int]]:
        """What to write into the meters."""
        hold, self._hold = self._hold, None
        if hold is None:
            return []
        used = {"micro_usd": spent, "tokens": tokens.prompt + tokens.completion, "requests": 1, "streams": 0}
        return hold.settle({limit: used[kind] for limit, kind in self._caller.limits_by_kind})

    def _release(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def _estimate(self, text_bytes: int) -> Tokens:
        answer = -(-text_bytes // BYTES_PER_TOKEN) if self._ask.operation != "embeddings" else 0
        if self._most_output is not None:
            answer = min(answer, self._most_output)  # an estimate shall not overspend what was reserved
        return Tokens(self._ask.size_bytes // BYTES_PER_TOKEN, 0, answer)


def limit_refused(reached: LimitReached) -> Refused:
    """What the client is told of a limit."""
    meter, window, amount = reached.limit
    subject, _, kind = meter.partition("/")
    whose = {"account": "this account", "team": "this team", "key": "this key"}[subject.partition(":")[0]]
    headers: dict[str, Any] = {"retry-after": str(max(1, round(reached.retry_after_s)))}
    if kind == "micro_usd":
        when = {"day": "a day", "month": "a month", "total": "all"}[window]
        message = (
            f"the budget of {whose}, {amount / 1_000_000:g} USD for {when}, is spent or too small for this request: "
            "raise it with `raymill budget set`, or ask for fewer tokens (max_tokens)"
        )
        if reached.spent_for_good:
            headers["x-should-retry"] = "false"
        return Refused(429, "budget_exceeded", message, headers=headers)
    what = {"requests": "requests", "tokens": "tokens", "streams": "streams at once"}[kind]
    when = "" if window == "now" else f" a {window}"
    message = (
        f"{whose} may use {amount} {what}{when}: try again in {headers['retry-after']} s, "
        "or raise the limit with `raymill limit set`"
    )
    return Refused(429, "rate_limit_exceeded", message, headers=headers)
