"""Imports what a training run imports on its way to the first step, Ray apart; the warm process does (`cluster/warm`).

What transformers loads only when it is asked for is named here, and what Ray, Ray Train and our own registry import
of others. Ray itself reads what a process belongs to from its environment as it is loaded, so each process must load
it by itself, and regopy after it; nothing here may import either. Nothing may compute: a process whose threads or CUDA
have started cannot be copied.
"""

# ruff: noqa: F401
from __future__ import annotations

import importlib
import os
import sys

import huggingface_hub.constants
import numpy as np
import torch
import torch.distributed
from peft import LoraConfig, get_peft_model
from safetensors import torch as safetensors_torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
)
from transformers.utils import logging as transformers_logging

OF_RAY = (
    "aiohttp",
    "alembic.command",
    "click",
    "colorful",
    "cronsim",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.serialization",
    "filelock",
    "fsspec.implementations.local",
    "google.protobuf.message",
    "grpc",
    "httpx",
    "jsonschema",
    "msgpack",
    "msgspec",
    "opencensus.stats",
    "opentelemetry.exporter.prometheus",
    "pandas",
    "prometheus_client",
    "psutil",
    "psycopg",
    "pyarrow.fs",
    "pyarrow.parquet",
    "pydantic_settings",
    "pydantic.deprecated.class_validators",
    "requests",
    "securesystemslib.signer",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "tensorboardX",
    "uvloop",
    "yaml",
)
"""What Ray and the registry import; whichever of them is not there is no loss."""

NEVER = ("ray", "regopy")

for _name in OF_RAY:
    try:
        importlib.import_module(_name)
    except ImportError:
        continue

assert not any(name in sys.modules for name in NEVER), "Ray must be loaded by each process"


def refresh() -> None:
    """What a process would have had from its own start: called in each copy, whose environment is there by then."""
    np.random.seed()  # copies must not draw the same numbers where nothing is seeded
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        torch.set_num_threads(int(threads))
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper()
    huggingface_hub.constants.HF_HUB_OFFLINE = offline in {"1", "ON", "YES", "TRUE"}
    verbosity = os.environ.get("TRANSFORMERS_VERBOSITY")
    if verbosity in transformers_logging.log_levels:
        transformers_logging.set_verbosity(transformers_logging.log_levels[verbosity])
