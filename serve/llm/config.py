"""How a version is served. Light: the recipe and the command line read it, so it imports nothing heavy.

Sizes are GiB, lengths are tokens.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raymill.evaluate.compress_config import COMPRESSED_TYPES, CompressedType
from raymill.evaluate.quantize_config import GgufType

EngineName = Literal["vllm", "llama_cpp"]


class ServeConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineName = "vllm"
    """vllm serves the Hugging Face layout, llama_cpp a GGUF file."""

    replicas: int = Field(default=1, ge=1)
    """Copies of the engine; each loads the weights once."""

    max_model_len: int | None = Field(default=None, ge=16)
    """Tokens of prompt and answer together; None takes what the model was trained for."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What vLLM computes in; auto follows the weights, but computes bf16 weights in float32 on a CPU without
    instructions for bf16. llama_cpp ignores it: its file says."""

    quantization: GgufType | CompressedType | None = None
    """What was made of the weights: a GGUF file for llama_cpp, such as Q8_0, which needs one; FP8, AWQ or GPTQ for vllm,
    on a GPU. None: vllm serves the weights themselves."""

    gpus: int = Field(default=0, ge=0)
    """GPUs of each replica; the model is split across them. 0 runs on the CPU."""

    gpu_memory_share: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of each GPU's memory that vLLM takes, weights and KV cache together."""

    cpus: float = Field(default=1.0, gt=0.0)
    """CPUs that Ray reserves for each replica. Reserved, not enforced: see cpu_threads."""

    cpu_threads: int | None = Field(default=None, ge=1)
    """Threads that compute on the CPU; None takes every core of the machine."""

    cpu_kv_cache_gib: float = Field(default=0.5, gt=0.0)
    """KV cache of vLLM on the CPU. On a GPU the memory share decides."""

    tool_call_parser: str | None = None
    """How vLLM reads tool calls out of an answer, by its name for it, such as hermes or llama3_json; None goes by
    the model's chat template, which tells Hermes' way. llama_cpp has none."""

    max_concurrent_requests: int = Field(default=256, ge=1)
    """Requests a replica takes at once; more wait at the gateway. llama_cpp answers one at a time."""

    enforce_eager: bool | None = None
    """Skip compilation and CUDA graphs: starts sooner, answers slower. None: on the CPU only."""

    @model_validator(mode="after")
    def _engine_and_file_agree(self) -> ServeConfig:
        compressed = self.quantization in COMPRESSED_TYPES
        if self.engine == "llama_cpp" and (self.quantization is None or compressed):
            raise ValueError("engine llama_cpp serves a GGUF file: say which, such as quantization: Q8_0")
        if self.engine == "vllm" and self.quantization is not None and not compressed:
            raise ValueError(
                f"quantization {self.quantization} is a GGUF file, which vllm does not serve here: "
                "use engine llama_cpp or leave quantization out"
            )
        return self
