"""Start vLLM inside the replica's process, for `ray.serve.llm`.

ray.serve.llm starts vLLM in up to four more processes, each of which imports vLLM again (15 s of CPU): a
Ray task that looks at the node, a telemetry actor, the engine core's process, and on the CPU a worker
process. A served version lies on disk and its replica owns its devices, so none of them is needed:

- the node task only downloads; it is skipped;
- one device needs no worker process (executor `uni`);
- on the CPU the engine core runs in a thread: PyTorch releases the interpreter lock while it computes.
  Measured on 2 cores with 2.8 M parameters: ready 1.5 s after the imports instead of 39 s, 1 process
  instead of 3, tokens/s about 10 % lower at batch 32. On a GPU the core keeps a process of its own.

Imports vLLM, so only a replica imports this module. Written against vllm 0.29 and ray 2.60; it can go
when vLLM supports AsyncLLM without multiprocessing (EngineCoreClient.make_client says it does not yet).
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackCtx
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine, _normalize_vllm_engine_kwargs
from ray.serve.llm.deployment import LLMServer
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.utils import EngineZmqAddresses, get_engine_zmq_addresses
from vllm.v1.executor.abstract import Executor

from raymill.policies.errors import Invalid

logger = logging.getLogger(__name__)


class NothingToFetch(CallbackBase):  # type: ignore[misc]
    """Tells ray.serve.llm that the model lies on this node already."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class QuietServer(LLMServer):  # type: ignore[misc]
    """LLMServer without its telemetry actor, which takes 10 s and 400 MiB to report nothing of ours."""

    async def _start_engine(self) -> None:
        await self.engine.start()


class ThreadedCore(EngineCoreProc):  # type: ignore[misc]
    """vLLM's engine core on a thread of this process, reached over the same sockets as a process would be."""

    def __init__(self, config: VllmConfig, addresses: EngineZmqAddresses, *, log_stats: bool) -> None:
        self._front_end = addresses
        super().__init__(
            vllm_config=config,
            local_client=True,
            handshake_address="",
            executor_class=Executor.get_class(config),
            log_stats=log_stats,
        )

    @contextmanager
    def _perform_handshakes(self, *_: Any) -> Iterator[EngineZmqAddresses]:
        # The handshake tells a new process these addresses; here they are known.
        yield self._front_end

    def run(self) -> None:
        """Step until the process ends. What kills the loop is reported, so that health checks fail."""
        try:
            self.run_busy_loop()
        except Exception:
            logger.exception("The engine core stopped: the replica will be restarted")
            self._send_engine_dead()
            raise


class LocalVllm(VLLMEngine):  # type: ignore[misc]
    """ray.serve.llm's vLLM engine for a model on disk and devices of this replica's own."""

    def unfinished(self) -> int:
        return int(self._engine_client.get_num_unfinished_requests())

    async def load_adapter(self, name: str, directory: Path) -> None:
        """Load a LoRA adapter, which requests then name as their model.

        Raises:
            Invalid: vLLM cannot load it.
        """
        request = LoadLoRAAdapterRequest(lora_name=name, lora_path=str(directory))
        said = await self._oai_models.load_lora_adapter(request)
        if isinstance(said, ErrorResponse):
            raise Invalid(
                f"vLLM cannot load adapter {name} ({said.error.message}): leave serve.lora out, the version is then "
                "served merged"
            )

    async def unload_adapter(self, name: str) -> None:
        """Free the memory of an adapter that nobody is answered with."""
        request = self._oai_models.lora_requests.pop(name)
        await self._engine_client.remove_lora(request.lora_int_id)

    def _prepare_engine_config(self, _: CallbackCtx) -> tuple[AsyncEngineArgs, FrontendArgs, VllmConfig]:
        engine_config = self.llm_config.get_engine_config()
        # ray.serve.llm asks for Ray workers or, on the CPU, for a worker process. One node needs neither.
        kwargs = engine_config.get_initialization_kwargs() | {
            "distributed_executor_backend": "uni" if engine_config.num_devices == 1 else "mp"
        }
        args = AsyncEngineArgs(**_normalize_vllm_engine_kwargs(kwargs))
        config = args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        return args, FrontendArgs(**engine_config.frontend_kwargs), config

    def _start_async_llm_engine(self, args: AsyncEngineArgs, config: VllmConfig, placement_group: Any) -> Any:
        if config.device_config.device_type != "cpu" or config.parallel_config.world_size > 1:
            return super()._start_async_llm_engine(args, config, placement_group)
        addresses = get_engine_zmq_addresses(config)
        # A copy, as a process would get: both sides write to their configuration.
        core = ThreadedCore(copy.deepcopy(config), addresses, log_stats=not args.disable_log_stats)
        threading.Thread(target=core.run, name="vllm-engine-core", daemon=True).start()
        return AsyncLLM(
            vllm_config=config,
            executor_class=Executor.get_class(config),
            log_requests=args.enable_log_requests,
            log_stats=not args.disable_log_stats,
            client_addresses={"input_address": addresses.inputs[0], "output_address": addresses.outputs[0]},
        )
