"""A GGUF file by llama.cpp, as one deployment that the gateway calls.

llama.cpp is native code that can crash. A Serve replica is a process of its own, so a crash is one failed
replica: Serve starts another, which verifies the file again, and the gateway answers 503 meanwhile. One
request runs at a time; the others wait in the order they came.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from ray.serve import Application

from raymill.registry.placement_config import pin
from raymill.serve.llm.answer import Body, Failure, Reply, encode
from raymill.serve.llm.llama_cpp_wire import Call, ChatWire, Step, TextWire, Wire, read_call
from raymill.serve.llm.rollout import application_of
from raymill.serve.llm.spec import DeploySpec
from raymill.serve.llm.traced import traced, traced_stream
from raymill.serve.loopback import keep_to_loopback

keep_to_loopback()


class LlamaCppEngine:
    """Answers the OpenAI wire for one verified GGUF file."""

    def __init__(self, spec: DeploySpec) -> None:
        spec.verify()
        from raymill.serve.llm.llama_cpp_model import GgufModel

        self._model_name = spec.served_name
        self._model = GgufModel(
            spec.directory / str(spec.gguf_file),
            max_model_len=spec.config.max_model_len or 0,
            threads=spec.config.cpu_threads or os.cpu_count() or 1,
            gpu=spec.config.gpus > 0,
        )
        self._turn = asyncio.Lock()
        # One thread: llama.cpp's context is not to be shared, and a cancelled step ends before the next begins.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llama-cpp")

    @traced
    async def chat(self, body: Body) -> Reply:
        return await self._whole(ChatWire(self._model_name), body)

    @traced
    async def completions(self, body: Body) -> Reply:
        return await self._whole(TextWire(self._model_name), body)

    @traced_stream
    async def chat_stream(self, body: Body) -> AsyncGenerator[Reply, None]:
        async with aclosing(self._pieces(ChatWire(self._model_name), body)) as pieces:
            async for piece in pieces:
                yield piece

    @traced_stream
    async def completions_stream(self, body: Body) -> AsyncGenerator[Reply, None]:
        async with aclosing(self._pieces(TextWire(self._model_name), body)) as pieces:
            async for piece in pieces:
                yield piece

    async def unfinished(self) -> int:
        """1 while a request runs."""
        return int(self._turn.locked())

    async def _whole(self, wire: Wire, body: Body) -> Reply:
        call = read_call(body, wire, self._model)
        if isinstance(call, Failure):
            return call
        texts: list[str] = []
        async with self._turn, aclosing(self._steps(call)) as steps:
            async for step in steps:
                texts.append(step.text)
                last = step
        return encode(wire.whole("".join(texts), last.finish_reason or "stop", last.usage))

    async def _pieces(self, wire: Wire, body: Body) -> AsyncGenerator[Reply, None]:
        call = read_call(body, wire, self._model)
        if isinstance(call, Failure):
            yield call
            return
        if (first := wire.opening()) is not None:
            yield encode(first) + b"\n"
        async with self._turn, aclosing(self._steps(call)) as steps:
            async for step in steps:
                yield encode(wire.piece(step.text, step.finish_reason)) + b"\n"
                last = step
        if call.include_usage:
            yield encode(wire.usage(last.usage)) + b"\n"

    async def _steps(self, call: Call) -> AsyncGenerator[Step, None]:
        """Each step on the engine's thread. Closed early (the client went away), it stops at the next token."""
        loop = asyncio.get_running_loop()
        steps: Generator[Step, None, None] = self._model.steps(call)
        try:
            while (step := await loop.run_in_executor(self._thread, next, steps, None)) is not None:
                yield step
        finally:
            # Not awaited: this also runs when the task is being cancelled.
            self._thread.submit(steps.close)


def build_llama_cpp(spec: DeploySpec) -> Application:
    """The application that serves `spec` by llama.cpp."""
    config = spec.config
    return application_of(
        LlamaCppEngine,
        spec,
        ray_actor_options={
            "num_cpus": config.cpus,
            "num_gpus": config.gpus,
            "resources": pin(config.resources),
        },
    )
