"""A pool of Ray actors that keep a model loaded and share a list of calls.

Each actor takes the next call as soon as it is free, so a slow or late one holds nobody up, and an actor
that Ray has no room for is simply never used. When one dies its call is made again by another. Nothing
of record lives here: results go to the caller the moment they arrive.

The actor's class is a plain one with a `load()` method.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from raymill.cluster.plain import last_line
from raymill.cluster.processes import give_way
from raymill.policies.errors import RaymillError, Unavailable

MAX_LOSSES = 3
"""A call (or a load) that has killed its actor this often is given up."""

POLL_S = 0.5
WAITING_S = 30.0
"""After so long without any actor the pool says that it waits for room."""


def _give_way(actor: object) -> None:  # noqa: ARG001 (Ray hands it over)
    give_way()


def join_ray() -> None:
    """The engine's driver has joined the cluster already; by hand we start one."""
    if not ray.is_initialized():
        ray.init()


class ActorLost(Unavailable):
    """Actors keep dying under the same work."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many actors, and what each asks of Ray."""

    actors: int = 2
    cpus: float = 1
    gpus: float = 0


def nothing() -> None:
    """Default for the callbacks."""


class ActorPool:
    """Use as a context manager; the actors go when it closes."""

    def __init__(
        self,
        cls: type[Any],
        arguments: Mapping[str, Any],
        size: Size,
        *,
        check: Callable[[], None] = nothing,
        log: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    ) -> None:
        """Ask Ray for the actors and return at once: they load while the caller does other work."""
        # Ray sets OMP_NUM_THREADS to `num_cpus` in each actor.
        self._remote = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus)(cls)
        self._arguments = dict(arguments)
        self._check = check
        self._log = log
        self._idle: list[Any] = []
        self._loading: dict[Any, Any] = {}
        self._load_losses = 0
        self._name = cls.__name__
        self._actors: list[Any] = []
        for _ in range(size.actors):
            self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def _start(self) -> None:
        actor = self._remote.remote(**self._arguments)
        self._actors.append(actor)
        actor.__ray_call__.remote(_give_way)
        self._loading[actor.load.remote()] = actor

    def _replace(self, actor: Any) -> None:
        self._actors.remove(actor)
        ray.kill(actor)  # one that is only out of reach would come back and hold its place
        self._start()

    def map(
        self, method: str, calls: Sequence[tuple[Any, ...]], on_result: Callable[[int, Any], None]
    ) -> None:
        """Call `method` with each of `calls`; `on_result` gets its position and result, in any order.

        Raises:
            ActorLost: the same call killed its actor MAX_LOSSES times.
            RaymillError: what `load` or the method raised.
        """
        waiting = deque(range(len(calls)))
        running: dict[Any, tuple[Any, int]] = {}
        losses = [0] * len(calls)
        idle_since = time.monotonic()
        while waiting or running:
            self._check()
            while waiting and self._idle:
                actor, position = self._idle.pop(), waiting.popleft()
                running[getattr(actor, method).remote(*calls[position])] = (actor, position)
            if running:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > WAITING_S:
                self._log(f"waiting for room: Ray has not started any {self._name} for {WAITING_S:.0f} s")
                idle_since = time.monotonic()
            done, _ = ray.wait([*running, *self._loading], timeout=POLL_S)
            for reference in done:
                if reference in self._loading:
                    self._loaded(reference)
                    continue
                actor, position = running.pop(reference)
                try:
                    result = ray.get(reference)
                except (
                    RayActorError,
                    ObjectLostError,
                ) as error:  # the answer goes with the node that it lies on
                    losses[position] += 1
                    if losses[position] >= MAX_LOSSES:
                        raise ActorLost(
                            f"{self._name}.{method} killed its process {MAX_LOSSES} times: "
                            f"lower batch, or give it more memory ({last_line(error)})"
                        ) from error
                    self._log(f"{self._name} was lost; its share is done again")
                    waiting.appendleft(position)
                    self._replace(actor)
                except RayTaskError as error:
                    raise_plain(error)
                else:
                    self._idle.append(actor)
                    on_result(position, result)

    def _loaded(self, reference: Any) -> None:
        actor = self._loading.pop(reference)
        try:
            ray.get(reference)
        except RayActorError as error:
            self._load_losses += 1
            if self._load_losses >= MAX_LOSSES:
                raise ActorLost(
                    f"{self._name} died {MAX_LOSSES} times while loading: give it more memory or use fewer "
                    f"actors ({last_line(error)})"
                ) from error
            self._replace(actor)
        except RayTaskError as error:
            raise_plain(error)
        else:
            self._idle.append(actor)


def raise_plain(error: RayTaskError) -> NoReturn:
    """Raise our own error as the actor raised it; any other keeps Ray's wrapping, with its traceback."""
    if isinstance(error.cause, RaymillError):
        raise error.cause from None
    raise error
