"""Imports what a training run imports on its way to the first step; the warm process does (`cluster/warm.py`).

What transformers and Ray load only when it is asked for is named here. Nothing may compute: a process whose
threads or CUDA have started cannot be copied.
"""

# ruff: noqa: F401
from __future__ import annotations

import os

import huggingface_hub.constants
import numpy as np
import ray  # before regopy's library, which the registry brings (see cluster/driver.py)
import ray.train
import ray.train.torch
import ray.train.v2._internal.execution.controller
import ray.train.v2._internal.execution.worker_group
import torch
import torch.distributed
from peft import LoraConfig, get_peft_model
from pyarrow import fs
from ray.job_submission import JobSubmissionClient
from safetensors import torch as safetensors_torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

import raymill.cluster.attempt
import raymill.cluster.job_logs
import raymill.train.export
import raymill.train.jobs
import raymill.train.pretrain
import raymill.train.reference
import raymill.train.tokenizer
import raymill.train.tuning
import raymill.train.worker

# A copy does not import transformers, and so does not read this from its environment.
transformers_logging.set_verbosity_error()

if not torch.backends.cuda.is_built():
    # It looks for devices as it is imported; where there can be none, that is harmless.
    import deepspeed


def refresh() -> None:
    """What a process would have had from its own start: called in each copy, whose environment is there by then."""
    # Copies must not draw the same numbers where nothing is seeded.
    np.random.seed()
    torch.seed()
    huggingface_hub.constants.HF_HUB_OFFLINE = os.environ.get("HF_HUB_OFFLINE", "").upper() in {
        "1",
        "ON",
        "YES",
        "TRUE",
    }
