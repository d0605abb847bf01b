"""How a version is served. Light: the recipe and the command line read it, so it imports nothing heavy.

Sizes are GiB, lengths are tokens.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raymill.evaluate.compress_config import COMPRESSED_TYPES, CompressedType
from raymill.evaluate.quantize_config import GgufType
from raymill.registry.placement_config import Resources

EngineName = Literal["vllm", "llama_cpp"]

Routing = Literal["prefix", "balanced"]
BALANCED: Routing = "balanced"

MaxRank = Literal[8, 16, 32, 64, 128, 256, 320, 512]
"""Those that vLLM has kernels for."""

HIGHEST_RANK = max(get_args(MaxRank))


def max_rank_for(rank: int) -> int | None:
    """The least `max_rank` for an adapter of this rank; None: vLLM serves none so high."""
    return next((each for each in get_args(MaxRank) if each >= rank), None)


class AutoscaleConfig(BaseModel):
    """How many replicas there are follows the requests that are being answered or wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: int = Field(default=1, ge=0)
    """0: without requests there is none, and the first request wakes one and waits for it."""

    max_replicas: int = Field(ge=1)
    target_ongoing_requests: float = Field(default=8.0, gt=0.0)
    """Requests at once that each replica should have; more of them add replicas. llama_cpp answers one at a time."""

    scale_up_delay_s: float = Field(default=5.0, ge=0.0)
    """How long there have to be too many requests. From none to one goes at once."""

    scale_down_delay_s: float = Field(default=300.0, ge=1.0)
    """How long there have to be too few; also how long a version is idle before its last replica ends."""

    wake_s: float = Field(default=60.0, gt=0.0)
    """Longest that a request waits for a replica where there is none; then it is refused with Retry-After."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> AutoscaleConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}: swap them"
            )
        return self


class LoraServing(BaseModel):
    """Versions of one base share an engine that holds the base once, and each version's adapter beside it.

    Named as vLLM names them, without its `lora`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_loras: int = Field(default=4, ge=1)
    """Adapters that vLLM mixes in one batch; requests for more of them take turns."""

    max_rank: MaxRank = 16
    """Highest rank of an adapter. Every place for one has this size, so a high one costs memory and time for all."""

    max_cpu_loras: int = Field(default=32, ge=1)
    """Adapters kept in memory. What was asked for least recently makes room, and is verified and loaded anew when it is
    asked for again."""

    @model_validator(mode="after")
    def _a_batch_fits(self) -> LoraServing:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError(
                f"max_cpu_loras {self.max_cpu_loras} is below max_loras {self.max_loras}: what a batch mixes is in "
                "memory, so raise it"
            )
        return self


class ServeConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineName = "vllm"
    """vllm serves the Hugging Face layout, llama_cpp a GGUF file."""

    replicas: int = Field(default=1, ge=1)
    """Copies of the engine; each loads the weights once."""

    autoscale: AutoscaleConfig | None = None
    """None: always as many as `replicas` says."""

    drain_s: float = Field(default=60.0, ge=0.0)
    """How long a replica that is replaced or ended may go on with the answers it has begun."""

    surge_percent: int = Field(default=100, ge=0, le=100)
    """Replicas that are started beside the old ones when settings change, in percent of their count, rounded up: each
    old one answers until a new one is ready. 0 ends old ones first, for machines without room for both."""

    max_model_len: int | None = Field(default=None, ge=16)
    """Tokens of prompt and answer together; None takes what the model was trained for."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What vLLM computes in; auto follows the weights, but computes bf16 weights in float32 on a CPU without
    instructions for bf16. llama_cpp ignores it: its file says."""

    quantization: GgufType | CompressedType | None = None
    """What was made of the weights: a GGUF file for llama_cpp, such as Q8_0, which needs one; FP8, AWQ or GPTQ for vllm,
    on a GPU. None: vllm serves the weights themselves."""

    lora: LoraServing | None = None
    """Serve the version's adapter on its base, by an engine that it shares with every version of the same base (by content)
    and the same settings. None: an engine of its own, with the adapter merged into the weights."""

    gpus: int = Field(default=0, ge=0)
    """GPUs of each replica, all of one machine; the model is split across them. 0 runs on the CPU."""

    pipeline_parallel: int = Field(default=1, ge=1)
    """Stages that vLLM cuts the layers into. The GPUs of a stage share each layer's weights (tensor parallel)."""

    resources: Resources | None = None
    """Which GPUs each replica runs on: `{accelerator: H100, gpus: 2}` sets `gpus` too."""

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

    routing: Routing | None = None
    """Which replica a request goes to. prefix: to the one that has read most of its beginning (a system prompt, the turns before),
    unless that is clearly busier than another. balanced: to the less busy of two, whatever the request. None: prefix for vllm,
    whose cache of prefixes is per replica, so chance finds half of two replicas' and a tenth of ten's; a request whose beginning
    nobody has read goes to the least busy, so what shares nothing loses nothing. balanced for llama_cpp, which answers one
    request at a time and keeps the last one's alone."""

    enforce_eager: bool | None = None
    """Skip compilation and CUDA graphs: starts sooner, answers slower. None: on the CPU only."""

    @property
    def tensor_parallel(self) -> int:
        """GPUs of each stage."""
        return max(1, self.gpus // self.pipeline_parallel)

    def missing_on(self, gpus: int) -> str | None:
        """Why a machine with so many GPUs cannot run a replica; None: it can."""
        if self.gpus <= gpus:
            return None
        return f"gpus {self.gpus}: a replica needs so many, and this machine has {gpus}: ask for fewer, or join a cluster"

    @property
    def wake_s(self) -> float | None:
        """Longest wait for a first replica; None where there always is one."""
        return self.autoscale.wake_s if self.autoscale and self.autoscale.min_replicas == 0 else None

    @property
    def routed(self) -> Routing:
        """As `routing` says, or as is best for the engine."""
        return self.routing or ("prefix" if self.engine == "vllm" else "balanced")

    @model_validator(mode="after")
    def _prefixes_are_vllms(self) -> ServeConfig:
        if self.routing == "prefix" and self.engine == "llama_cpp":
            raise ValueError(
                "routing prefix is vllm's: llama_cpp answers one request at a time, so leave routing out"
            )
        return self

    @model_validator(mode="after")
    def _gpus_make_whole_stages(self) -> ServeConfig:
        if self.pipeline_parallel == 1:
            return self
        if self.engine == "llama_cpp":
            raise ValueError("pipeline_parallel is vllm's: llama_cpp splits a model over gpus by itself")
        if self.gpus == 0 or self.gpus % self.pipeline_parallel:
            raise ValueError(
                f"gpus {self.gpus} cannot be split into {self.pipeline_parallel} stages: make gpus a multiple of "
                "pipeline_parallel"
            )
        return self

    @model_validator(mode="after")
    def _one_says_how_many(self) -> ServeConfig:
        if self.autoscale is not None and self.replicas != 1:
            raise ValueError(
                f"replicas {self.replicas} is a fixed number and autoscale is not: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _lora_is_of_the_weights_themselves(self) -> ServeConfig:
        if self.lora is not None and self.engine == "llama_cpp":
            raise ValueError("lora is vllm's: llama_cpp serves merged weights, so leave lora out")
        if self.lora is not None and self.quantization is not None:
            raise ValueError(
                f"quantization {self.quantization} is made of merged weights, and lora serves an adapter on its base: "
                "leave one of them out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _gpus_of_resources(cls, data: Any) -> Any:
        asked = data.get("resources") if isinstance(data, dict) else None
        if not isinstance(asked, dict):
            return data
        gpus = asked.get("gpus", data.get("gpus") or 1)
        return {"gpus": gpus} | data | {"resources": {**asked, "gpus": gpus}}

    @model_validator(mode="after")
    def _gpus_agree(self) -> ServeConfig:
        if self.resources is not None and self.gpus != self.resources.gpus:
            raise ValueError(
                f"gpus is {self.gpus}, resources.gpus {self.resources.gpus}: both are of each replica, so leave one out"
            )
        return self

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
