"""Which adapters an engine has loaded: each is verified and loaded when it is first asked for, and stays while there is room.

Makes room itself, before vLLM would: vLLM reads an adapter that it has put away from disk again by itself, and bytes that
nobody has looked at since. Knows no vLLM: how to load is given. For one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from raymill.policies.errors import RaymillError
from raymill.serve.llm.adapters import Adapter
from raymill.serve.llm.answer import Failure

log = logging.getLogger(__name__)

NEWS_S = 10.0
"""A request may be here before the news of its adapter, which comes by way of Serve's controller: it waits so long."""


class AdapterShelf:
    """Lost with its replica, and filled again by what is asked for."""

    def __init__(
        self,
        *,
        room: int,
        verify: Callable[[Adapter], None],
        load: Callable[[str, Path], Awaitable[None]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        """
        Args:
            room: adapters that are loaded at once; more only while more are being asked.
            verify: raises where an adapter may not be loaded; runs in a thread.
            load: has the engine load an adapter, by its name and directory.
            unload: has the engine forget one.
        """
        self._room = room
        self._verify = verify
        self._load = load
        self._unload = unload
        self._known: dict[str, Adapter] = {}
        self._news = asyncio.Event()
        # The one that was asked for least recently comes first.
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._asked = Counter[str]()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    def tell(self, adapters: Sequence[Adapter]) -> None:
        """These are served from now on, and no other."""
        self._known = {adapter.name: adapter for adapter in adapters}
        told, self._news = self._news, asyncio.Event()
        told.set()

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[Failure | None]:
        """The adapter is loaded, and stays so as long as this is open; or the reason why it is not."""
        self._asked[name] += 1
        try:
            ready = name in self._loaded and name in self._known
            refused = None if ready else await self._fetch(name)
            if refused is None:
                self._loaded.move_to_end(name)
            yield refused
        finally:
            self._asked[name] -= 1
            if not self._asked[name]:
                del self._asked[name]

    async def _fetch(self, name: str) -> Failure | None:
        adapter = await self._hear_of(name)
        if adapter is None:
            return Failure(503, "adapter_unknown", f"{name} is not served here: try again in a few seconds")
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._take(adapter), name=f"load-{name}")
            self._loading[name].add_done_callback(lambda task: self._taken(name, task))
        try:
            # One load for all that wait for it; it goes on when they give up.
            await asyncio.shield(self._loading[name])
        except RaymillError as error:
            return Failure(503, error.code, str(error))
        return None

    def _taken(self, name: str, task: asyncio.Task[None]) -> None:
        del self._loading[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Adapter %s is not loaded: %s", name, error)

    async def _hear_of(self, name: str) -> Adapter | None:
        try:
            async with asyncio.timeout(NEWS_S):
                while name not in self._known:
                    await self._news.wait()
        except TimeoutError:
            return None
        return self._known[name]

    async def _take(self, adapter: Adapter) -> None:
        if adapter.name in self._loaded:
            return
        await asyncio.to_thread(self._verify, adapter)
        async with self._turn:
            while len(self._loaded) >= self._room and (idle := self._idle()) is not None:
                del self._loaded[idle]
                await self._unload(idle)
            await self._load(adapter.name, adapter.directory)
            self._loaded[adapter.name] = None

    def _idle(self) -> str | None:
        return next((name for name in self._loaded if not self._asked[name]), None)
