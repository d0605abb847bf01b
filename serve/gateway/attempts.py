"""Trying targets until one answers: retries with full jitter, keys in turn, breakers, then the next target.

Other targets are asked only until the answer has begun, that is until its first content token: after that
it belongs to one target, and what goes wrong ends the stream with an error. `mishaps` says what each one means.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from raymill.policies.errors import Invalid
from raymill.serve.gateway.catalog import Route, Target
from raymill.serve.gateway.dialect import Call, Dialect, Reader, Whole
from raymill.serve.gateway.health import HealthBook
from raymill.serve.gateway.mishaps import MISHAPS, Failed, failed_by, refused_by
from raymill.serve.gateway.translated import dialect_of
from raymill.serve.gateway.upstream import Opened, Upstreams
from raymill.serve.gateway.wire import Ask, Refused


@dataclass(slots=True)
class Begun:
    """A target that answers."""

    target: Target
    whole: Whole | None = None
    """The whole answer, of a plain request."""

    opened: Opened | None = None
    reader: Reader | None = None
    first: bytes = b""
    """What the client gets first, of a stream."""

    finished: bool = False
    """The stream is over already: `first` is all of it."""


@dataclass(slots=True)
class Attempts:
    """The tries of one request. Holds what the answer's headers and the usage record tell of them."""

    upstreams: Upstreams
    book: HealthBook
    ask: Ask
    route: Route
    count: int = 0
    waited_s: float = 0.0
    """For upstreams, and between tries: all of the latency that is not ours."""

    target: Target | None = None
    """Asked last."""

    failures: list[str] = field(default_factory=list)
    """One line for each try that failed."""

    async def begin(self, targets: Sequence[Target]) -> Begun:
        """The first answer.

        Raises:
            Refused: nobody answers, or the client is to blame.
        """
        last: Failed | None = None
        for target in targets:
            if not self.book.of(target).admits(time.monotonic()):
                continue
            try:
                return await self._try(target)
            except Failed as failed:
                if failed.final:
                    raise failed.refused from None
                if last is None or not failed.unsaid:
                    last = failed
        if last is not None:
            raise last.refused from None
        raise Refused(
            503,
            "no_target_available",
            f"every target of {self.route.name!r} is resting after too many errors: "
            f"try again in {self.route.config.breaker.open_s:g} s",
            headers={"retry-after": str(max(1, round(self.route.config.breaker.open_s)))},
        )

    async def _try(self, target: Target) -> Begun:
        """One target, as often as the route allows. Raises Failed."""
        retries = self.route.config.retries
        try:
            dialect = dialect_of(self.ask, target)
        except (Refused, Invalid) as error:
            raise _unsaid(error) from None
        tried: set[str] = set()
        number = 0
        while True:
            number += 1
            try:
                return await self._once(target, dialect, tried)
            except Failed as failed:
                self.failures.append(f"{target.id}: {failed.refused.status} {failed}"[:300])
                secrets = target.provider.secrets if target.provider else ()
                if failed.other_key and len(tried) < len(secrets):
                    number -= 1  # a key that is at its limit is no try at the target
                    continue
                if not failed.again or number >= retries.attempts:
                    raise
                pause_s = random.uniform(0, min(retries.cap_s, retries.base_s * 2**number))
                if failed.after_s is not None:
                    pause_s = failed.after_s
                if pause_s > retries.cap_s or not self.book.of(target).admits(time.monotonic()):
                    raise
                tried.clear()
                self.waited_s += pause_s
                await asyncio.sleep(pause_s)

    async def _once(self, target: Target, dialect: Dialect, tried: set[str]) -> Begun:
        health = self.book.of(target)
        secrets = target.provider.secrets if target.provider else ()
        secret = self.book.pick_secret(secrets, tried) if secrets else None
        if secret is not None:
            tried.add(secret.id)
        try:
            call = dialect.call(secret)
        except Invalid as error:
            raise _unsaid(error) from None
        self.count += 1
        self.target = target
        started = time.monotonic()
        health.begin(started)
        try:
            begun = await self._answer(target, dialect, call)
        except Failed as failed:
            if secret is not None and failed.key_rest_s:
                self.book.rest(secret, failed.key_rest_s)
            if failed.final or failed.blameless:
                health.given_up()
            else:
                health.failed(self.route.config.breaker, time.monotonic())
            raise
        except BaseException:
            health.given_up()
            raise
        finally:
            self.waited_s += time.monotonic() - started
        health.succeeded(self.route.config.breaker, (time.monotonic() - started) * 1000)
        return begun

    async def _answer(self, target: Target, dialect: Dialect, call: Call) -> Begun:
        """Send, and read until the answer is whole or has begun. Raises Failed."""
        timeouts = self.route.config.timeouts
        opened: Opened | None = None
        begun = False
        try:
            opened = await self.upstreams.open(
                target, self.ask.operation, call, stream=self.ask.stream, timeouts=timeouts
            )
            if opened.status >= 300:
                raise refused_by(target, opened.status, opened.headers, await opened.whole(timeouts.idle_s))
            if not self.ask.stream:
                whole = dialect.whole(await opened.whole(timeouts.idle_s))
                begun = True
                return Begun(target, whole=whole)
            reader = dialect.reader()
            first, finished = b"", False
            while not reader.begun and not finished:
                data = await opened.next(timeouts.first_token_s)
                finished = not data
                first += reader.feed(data) if data else reader.end()
            begun = True
            return Begun(target, opened=opened, reader=reader, first=first, finished=finished)
        except MISHAPS as error:
            raise failed_by(target, error) from error
        finally:
            if opened is not None and not begun:
                opened.close()


def _unsaid(error: Refused | Invalid) -> Failed:
    if isinstance(error, Invalid):
        error = Refused(400, error.code, str(error), param=error.param)
    return Failed(error, unsaid=True)
