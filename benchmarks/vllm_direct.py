"""vLLM's own OpenAI server, with the arguments of `vllm serve`: `python -m benchmarks.vllm_direct …`.

With `CORE_IN_THREAD=1` in the environment its engine's core runs in a thread of the server's process, which
is how a replica of ours runs it on a CPU (`serve/llm/vllm_start.py` says why); without, as vLLM does.
"""

from __future__ import annotations

import copy
import os
import threading
from argparse import Namespace

import uvloop
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.entry import build_and_serve, run_server
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import setup_server
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.utils import get_engine_zmq_addresses
from vllm.v1.executor.abstract import Executor


async def serve_with_core_in_thread(args: Namespace) -> None:
    """As `run_server` of vLLM, but for where the engine's core runs."""
    address, listener = setup_server(args, reuse_port=False)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    stopped = await build_and_serve(_engine(config), address, listener, args)
    await stopped


def _engine(config: VllmConfig) -> AsyncLLM:
    from raymill.serve.llm.vllm_start import ThreadedCore

    addresses = get_engine_zmq_addresses(config)
    core = ThreadedCore(copy.deepcopy(config), addresses, log_stats=False)
    threading.Thread(target=core.run, name="vllm-engine-core", daemon=True).start()
    return AsyncLLM(
        vllm_config=config,
        executor_class=Executor.get_class(config),
        log_requests=False,
        log_stats=False,
        client_addresses={"input_address": addresses.inputs[0], "output_address": addresses.outputs[0]},
    )


def main() -> None:
    parser = make_arg_parser(FlexibleArgumentParser(description="vLLM's OpenAI server"))
    args = parser.parse_args()
    validate_parsed_serve_args(args)
    if os.environ.get("CORE_IN_THREAD") == "1":
        # The replica's event loop is asyncio's own or uvloop, whichever Ray chose; vLLM's server has uvloop.
        uvloop.run(serve_with_core_in_thread(args))
    else:
        uvloop.run(run_server(args))


if __name__ == "__main__":
    main()
