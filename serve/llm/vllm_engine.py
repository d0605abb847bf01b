"""vLLM by `ray.serve.llm`, as one deployment that the gateway calls: one version, or adapters that share their base.

`LLMServer` of ray.serve.llm lives inside our replica instead of being it: the process that deploys then
never imports vLLM (17 s and 0.8 GB), and the bytes are verified before the engine is even imported.
The replica holds everything; when it dies, Serve starts another, which verifies again.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.serve import Application

from raymill.cluster import cpu
from raymill.registry.placement_config import pin
from raymill.serve.llm.adapter_shelf import AdapterShelf
from raymill.serve.llm.adapters import Adapter
from raymill.serve.llm.answer import Body, Failure, Reply
from raymill.serve.llm.prefix_router import by_prefix
from raymill.serve.llm.rollout import application_of
from raymill.serve.llm.spec import DeploySpec
from raymill.serve.llm.traced import traced, traced_stream
from raymill.serve.loopback import keep_to_loopback

if TYPE_CHECKING:
    from ray.serve.llm import LLMConfig

DONE = "[DONE]"

keep_to_loopback()


class VllmEngine:
    """Answers the OpenAI wire for one verified version, or for those whose adapters of a base it is told of."""

    async def __init__(self, spec: DeploySpec) -> None:  # type: ignore[misc]  # Serve awaits it
        spec.verify()
        # Of this machine and not of the deployer's; OpenMP reads it when torch is imported, below.
        os.environ["OMP_NUM_THREADS"] = str(spec.config.cpu_threads or os.cpu_count() or 1)
        from ray.llm._internal.serve.core.configs.openai_api_models import (
            ChatCompletionRequest,
            CompletionRequest,
        )

        from raymill.serve.llm.vllm_start import LocalVllm, QuietServer

        self._chat_request = ChatCompletionRequest
        self._completion_request = CompletionRequest
        # The two-step start is the one that works outside Serve's own await of an async constructor.
        self._server = QuietServer.sync_init(llm_config(spec), engine_cls=LocalVllm)
        await self._server.start()
        self._shelf = self._shelf_of(spec)

    async def reconfigure(self, told: dict[str, Any]) -> None:
        """Serve calls it at the start, and when other adapters are to be served."""
        assert self._shelf is not None, "only a shared base is told of adapters"
        self._shelf.tell([Adapter.of_json(each) for each in told["adapters"]])

    @traced
    async def chat(self, body: Body) -> Reply:
        return await self._whole(self._server.chat, self._chat_request, body)

    @traced
    async def completions(self, body: Body) -> Reply:
        return await self._whole(self._server.completions, self._completion_request, body)

    @traced_stream
    async def chat_stream(self, body: Body) -> AsyncGenerator[Reply, None]:
        async for piece in self._pieces(self._server.chat, self._chat_request, body):
            yield piece

    @traced_stream
    async def completions_stream(self, body: Body) -> AsyncGenerator[Reply, None]:
        async for piece in self._pieces(self._server.completions, self._completion_request, body):
            yield piece

    async def unfinished(self) -> int:
        """Requests that vLLM is working on or holds in its queue."""
        return int(self._server.engine.unfinished())

    async def check_health(self) -> None:
        await self._server.check_health()

    async def _whole(self, method: Any, request_type: Any, body: Body) -> Reply:
        request = _parsed(request_type, body)
        if isinstance(request, Failure):
            return request
        async with self._adapter_of(request) as refused:
            if refused is not None:
                return refused
            answers = await method(request)
            async for answer in answers:
                if hasattr(answer, "error"):
                    return _failure(answer.error.model_dump())
                text: str = answer.model_dump_json(exclude_unset=False)
                return text.encode()
        return Failure(500, "engine_silent", "vLLM ended the request without an answer: try again")

    async def _pieces(self, method: Any, request_type: Any, body: Body) -> AsyncIterator[Reply]:
        request = _parsed(request_type, body)
        if isinstance(request, Failure):
            yield request
            return
        async with self._adapter_of(request) as refused:
            if refused is not None:
                yield refused
                return
            async for batch in await method(request):
                for item in batch if isinstance(batch, list) else [batch]:
                    if not isinstance(item, str):
                        yield _failure(item.error.model_dump())
                        return
                    chunk = item.removeprefix("data: ").strip()
                    if chunk == DONE:
                        return
                    if chunk.startswith('{"error"'):
                        yield _failure(json.loads(chunk)["error"])
                        return
                    yield chunk.encode() + b"\n"

    def _shelf_of(self, spec: DeploySpec) -> AdapterShelf | None:
        lora = spec.config.lora
        if lora is None or spec.shared is None:
            return None
        return AdapterShelf(
            room=lora.max_cpu_loras,
            verify=partial(Adapter.verify, base_digest=spec.shared.digest, keys=spec.keys, lora=lora),
            load=self._server.engine.load_adapter,
            unload=self._server.engine.unload_adapter,
        )

    def _adapter_of(self, request: Any) -> AbstractAsyncContextManager[Failure | None]:
        """Held as long as the request is answered."""
        return nullcontext() if self._shelf is None else self._shelf.holding(str(request.model))


def _parsed(request_type: Any, body: Body) -> Any:
    from pydantic import ValidationError

    try:
        return request_type(**body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if not isinstance(part, int)) or None
        return Failure(400, "invalid_request", f"{where or 'request'}: {first['msg']}", where)


def _failure(error: dict[str, Any]) -> Failure:
    status = int(error.get("code") or 500)
    code = "invalid_request" if status < 500 else "engine_error"
    return Failure(status, code, str(error.get("message")), error.get("param"))


def llm_config(spec: DeploySpec) -> LLMConfig:
    """The configuration of ray.serve.llm for `spec`, the same for CPU and GPU but for the memory.

    The batcher of 50 ms is off: the gateway wants each token as it comes.
    """
    from ray.serve.llm import LLMConfig

    from raymill.serve.llm.vllm_start import NothingToFetch

    config = spec.config
    on_cpu = config.gpus == 0
    eager = on_cpu if config.enforce_eager is None else config.enforce_eager
    engine_kwargs: dict[str, Any] = {
        "dtype": _dtype(spec),
        "enforce_eager": eager,
        "max_num_seqs": config.max_concurrent_requests,
        "tensor_parallel_size": config.tensor_parallel,
        "pipeline_parallel_size": config.pipeline_parallel,
        "enable_prompt_tokens_details": True,
    }
    if config.lora is not None:
        engine_kwargs |= {
            "enable_lora": True,
            "max_loras": config.lora.max_loras,
            "max_lora_rank": config.lora.max_rank,
            "max_cpu_loras": config.lora.max_cpu_loras,
            "override_generation_config": {"eos_token_id": tuned_stops(spec.directory)},
        }
        if on_cpu:
            from raymill.serve.llm.cpu_worker import WORKER

            engine_kwargs["worker_cls"] = WORKER
    if (parser := config.tool_call_parser or tool_call_parser_of(spec.directory)) is not None:
        engine_kwargs |= {"enable_auto_tool_choice": True, "tool_call_parser": parser}
    if config.max_model_len is not None:
        engine_kwargs["max_model_len"] = config.max_model_len
    if on_cpu:
        engine_kwargs["kv_cache_memory_bytes"] = int(config.cpu_kv_cache_gib * 2**30)
    else:
        engine_kwargs["gpu_memory_utilization"] = config.gpu_memory_share
    return LLMConfig(
        model_loading_config={"model_id": spec.served_name, "model_source": str(spec.directory)},
        engine_kwargs=engine_kwargs,
        placement_group_config={"bundles": _bundles(spec)},
        experimental_configs={"stream_batching_interval_ms": 0},
        callback_config={"callback_class": NothingToFetch},
        # Metrics of tokens and latency are the gateway's; vLLM's own cost a tenth of the small model's speed.
        log_engine_metrics=False,
    )


def tuned_stops(base: Path) -> list[int]:
    """Tokens that end a text of a version that was tuned on `base`: its own, and those that end a turn of its template.

    Merged weights carry them (`train/export.py`), a base that was imported may not.
    """
    from transformers import AutoConfig, GenerationConfig

    from raymill.train.export import as_list, stop_tokens
    from raymill.train.tokenizer import load_tokenizer

    if (base / "generation_config.json").is_file():
        known = GenerationConfig.from_pretrained(str(base), local_files_only=True).eos_token_id
    else:
        known = AutoConfig.from_pretrained(str(base), local_files_only=True).eos_token_id
    stops = [*stop_tokens(load_tokenizer(base)), *as_list(known)]
    return list(dict.fromkeys(stops))


def tool_call_parser_of(directory: Path) -> str | None:
    """vLLM's name for how the model writes its calls, as its chat template shows; None when that is not told.

    Calls in <tool_call> are Hermes': our own bases, Qwen 2.5 and 3, and many more write them.
    """
    files = (directory / "chat_template.jinja", directory / "tokenizer_config.json")
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    return "hermes" if any("<tool_call>" in text for text in texts) else None


def _dtype(spec: DeploySpec) -> str:
    """`auto` is the weights' own, unless that is bf16 and this CPU would have to emulate it."""
    config = spec.config
    if config.dtype != "auto" or config.gpus or cpu.computes_bf16():
        return config.dtype
    from transformers import AutoConfig

    weights = AutoConfig.from_pretrained(str(spec.directory), local_files_only=True).dtype
    return "float32" if str(weights) == "torch.bfloat16" else config.dtype


def _bundles(spec: DeploySpec) -> list[dict[str, float]]:
    bundle = {"CPU": spec.config.cpus, **pin(spec.config.resources)}
    return [bundle | {"GPU": float(spec.config.gpus)}] if spec.config.gpus else [bundle]


def _environment(spec: DeploySpec) -> dict[str, str]:
    """Set before the worker process starts, since vLLM reads them at import."""
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if spec.config.gpus == 0 else "1",
        # A served version lies on disk; nothing is fetched and nothing is reported to anyone.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }


def build_vllm(spec: DeploySpec) -> Application:
    """The application that serves `spec` by vLLM."""
    return application_of(VllmEngine, spec, **vllm_options(spec))


def vllm_options(spec: DeploySpec) -> dict[str, Any]:
    """Of `serve.deployment`: what a replica's process needs."""
    return {
        "ray_actor_options": {
            "num_cpus": spec.config.cpus,
            "num_gpus": spec.config.gpus,
            "runtime_env": {"env_vars": _environment(spec)},
        },
        "placement_group_bundles": _bundles(spec),
        "placement_group_strategy": "STRICT_PACK",
        # Whatever `routing` says: Serve keeps a process's router until that ends, so each call tells.
        "request_router_config": by_prefix(),
    }
