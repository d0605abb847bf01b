"""vLLM's worker on the CPU, with adapters added as `cpu_adapters.py` does it.

An engine is given `WORKER` as its `worker_cls`: vLLM imports it in the process that computes, whether that is the
replica's own or one of several. Imports all of vLLM, so only a replica imports this module. It goes with `cpu_adapters.py`.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

from raymill.serve.llm.cpu_adapters import GroupedAdapters


class AdapterWorker(CPUWorker):  # type: ignore[misc]
    """Tells vLLM which class adds adapters, before the model's layers are made."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        current_platform.get_punica_wrapper = lambda: (
            f"{GroupedAdapters.__module__}.{GroupedAdapters.__name__}"
        )
        super().load_model(*args, **kwargs)


WORKER = f"{__name__}.{AdapterWorker.__name__}"
