"""What a recipe may say about pre-training and tuning. Light: imports nothing but pydantic.

Units: tokens, steps (one optimiser update), examples. A field that is left out is derived from the
others when the model is built, so the stored configuration always holds every number.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raymill.registry.placement_config import Resources
from raymill.train.compatibility import refuse_bad_combinations
from raymill.train.methods import COMPARING, DpoConfig, KtoConfig, LoraConfig, Method
from raymill.train.run_config import Config, EarlyStop, Validate

HEAD_DIM = 64
"""vLLM serves 32, 64, 80, 96, 112, 128…; 64 is the smallest that uses a GPU's tensor cores well."""

QUANT_BLOCK = 256
"""K-quants need row lengths that this divides; others fall back silently to a larger type."""

Precision = Literal["auto", "bf16", "fp32"]


class ClusterUse(Config):
    """How a training run spreads over the cluster."""

    workers: int = Field(default=1, ge=1, le=1024)
    """Ray Train workers; each has one GPU, or its share of the machine's cores."""

    min_workers: int | None = Field(default=None, ge=1, le=1024)
    """Elastic: a run that loses machines goes on with as few workers as this, and with more again, up to `workers`,
    when there is room. A step has the same rows and the same loss with any number. None: always `workers`."""

    zero: int = Field(default=0, ge=0, le=3)
    """DeepSpeed ZeRO stage: 0 nothing is sharded, 1 optimiser states, 2 also gradients, 3 also weights."""

    sharding: Literal["zero", "fsdp"] = "zero"
    """Who shards: DeepSpeed by `zero`, or torch's FSDP2, which shards everything."""

    offload: Literal["none", "optimizer", "all"] = "none"
    """What moves from the GPU to the machine's memory: optimiser states, or the weights as well."""

    gradient_checkpointing: bool = False
    """Keep a block's input alone and compute the rest again going back: less memory, a third more work."""

    compile: bool = False
    """Compile each block of the model and the loss with torch.compile; the first steps wait for it."""

    liger: bool = False
    """Liger's kernels for norms, rotary positions and feed-forward layers. Needs a GPU."""

    precision: Precision = "auto"
    """Of the arithmetic; weights stay fp32. `auto` is bf16 where the device computes in it."""

    use_gpu: bool | None = None
    """None: use GPUs when the cluster has one for each worker."""

    resources: Resources | None = None
    """Which GPUs, one for each worker: `{accelerator: H100, gpus: 8}` sets `workers` and `use_gpu` too. The run waits in
    its queue until they are free. None: it is started, and Ray decides."""

    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints; what a crash can lose."""

    max_failures: int = Field(default=3, ge=0)
    """How often a group of workers is started again from the last checkpoint."""

    @property
    def least_workers(self) -> int:
        """With fewer the run does not go on."""
        return self.min_workers or self.workers


def with_workers(given: dict[str, Any]) -> dict[str, Any]:
    """A worker for each GPU of `resources`, or a GPU for each worker."""
    asked = given.get("resources")
    if not isinstance(asked, dict):
        return given
    gpus = asked.get("gpus", given.get("workers", 1))
    use_gpu = True if given.get("use_gpu") is None else given["use_gpu"]
    return {"workers": gpus} | given | {"resources": {**asked, "gpus": gpus}, "use_gpu": use_gpu}


def check_resources(use: ClusterUse) -> None:
    """
    Raises:
        ValueError: `resources` says something else than the keys beside it.
    """
    if use.resources is None:
        return
    if use.use_gpu is False:
        raise ValueError("use_gpu is false, resources asks for GPUs: leave one of them out")
    if use.resources.gpus != use.workers:
        raise ValueError(
            f"workers is {use.workers}, resources.gpus {use.resources.gpus}: each worker has one GPU, so leave one out"
        )
    if use.min_workers is not None:
        raise ValueError(
            "min_workers starts with fewer, resources waits for all its GPUs: leave one of them out"
        )


class PretrainConfig(ClusterUse):
    """A small Llama from a text file. `hidden` and `layers` are the dial; the rest follows from them."""

    text: str
    """Text file, UTF-8. Documents are separated by an empty line."""

    hidden: int = Field(default=256, ge=64)
    """Width of the model; divisible by 256, so that K-quants apply."""

    layers: int = Field(default=4, ge=1, le=128)
    """Transformer blocks."""

    heads: int = Field(default=0, ge=0)
    """Attention heads; 0 means hidden / 64."""

    kv_heads: int = Field(default=0, ge=0)
    """Key-value heads; 0 means half of the heads."""

    ffn: int = Field(default=0, ge=0)
    """Width of the feed-forward layers; 0 means three times hidden."""

    vocab: int = Field(default=2048, ge=320, le=262_144)
    """Tokens in the vocabulary, with 256 bytes and the special ones."""

    seq_tokens: int = Field(default=256, ge=16)
    """Tokens in a training window."""

    max_positions: int = Field(default=2048, ge=16)
    """The longest context that the model may be served with, tokens."""

    steps: int = Field(default=300, ge=1)
    """Optimiser updates."""

    batch: int = Field(default=16, ge=1)
    """Windows in a step, over all workers."""

    learning_rate: float = Field(default=0.0, ge=0, le=1)
    """Peak; 0 means 3e-3 at hidden 256, falling with the square root of the width."""

    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""

    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's, for matrices alone."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """A longer gradient is scaled down to this."""

    seed: int = 0
    """Of the initial weights and the order of the data."""

    @model_validator(mode="before")
    @classmethod
    def derive(cls, data: Any) -> Any:
        """Fill the zeros from `hidden`."""
        if not isinstance(data, dict):
            return data
        data = with_workers(data)
        hidden = data.get("hidden", 256)
        if not isinstance(hidden, int) or hidden < HEAD_DIM:
            return data  # the field's own check says what is wrong
        given = dict(data)
        given["heads"] = given.get("heads") or max(1, hidden // HEAD_DIM)
        # A value of a wrong type stays, for the field's own check.
        heads = given["heads"] if isinstance(given["heads"], int) else hidden // HEAD_DIM
        given["kv_heads"] = given.get("kv_heads") or max(1, heads // 2)
        given["ffn"] = given.get("ffn") or 3 * hidden
        given["learning_rate"] = given.get("learning_rate") or round(3e-3 * (256 / hidden) ** 0.5, 6)
        return given

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.hidden % QUANT_BLOCK:
            nearest = max(QUANT_BLOCK, round(self.hidden / QUANT_BLOCK) * QUANT_BLOCK)
            raise ValueError(f"hidden is {self.hidden}, which 256 does not divide: use {nearest}")
        if self.ffn % QUANT_BLOCK:
            nearest = max(QUANT_BLOCK, round(self.ffn / QUANT_BLOCK) * QUANT_BLOCK)
            raise ValueError(f"ffn is {self.ffn}, which 256 does not divide: use {nearest}")
        if self.hidden % self.heads:
            raise ValueError(
                f"heads is {self.heads}, which does not divide hidden {self.hidden}: use another"
            )
        if self.hidden // self.heads not in (32, 64, 80, 96, 112, 128, 256):
            raise ValueError(
                f"heads is {self.heads}, which makes heads of {self.hidden // self.heads}: vLLM needs 32, 64 or "
                f"128, so use {max(1, self.hidden // HEAD_DIM)}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads is {self.kv_heads}, which does not divide heads {self.heads}: use 1 or all"
            )
        if self.seq_tokens > self.max_positions:
            raise ValueError(
                f"seq_tokens is {self.seq_tokens}, max_positions {self.max_positions}: raise max_positions"
            )
        check_split(self)
        refuse_bad_combinations(self.model_dump())
        return self


class TrainConfig(ClusterUse):
    """Fine-tuning of a base on a data set, by any of the methods."""

    method: Method = "sft"
    """pretrain (continued, on text), sft, tool (calls), dpo (pairs) or kto (answers that are good or bad)."""

    lora: LoraConfig | None = None
    """Adapters; None tunes every weight."""

    dpo: DpoConfig | None = None
    """Settings of method dpo."""

    kto: KtoConfig | None = None
    """Settings of method kto."""

    loss_on: Literal["assistant", "last", "all"] = "assistant"
    """Which tokens of a conversation count: what the assistant says, its last turn alone, or everything."""

    epochs: int = Field(default=3, ge=1, le=1000)
    """How often each example is seen."""

    batch: int = Field(default=16, ge=1)
    """Examples in a step, over all workers."""

    micro_tokens: int = Field(default=16_384, ge=64)
    """Tokens in one forward pass of one worker; a larger share of a step is done in several passes."""

    learning_rate: float = Field(default=0.0, ge=0, le=1)
    """Peak; 0 means 2e-5, for dpo and kto 1e-6, and ten times that with LoRA."""

    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""

    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's, for matrices alone."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """A longer gradient is scaled down to this."""

    max_tokens: int = Field(default=1024, ge=16)
    """Tokens that an example may have. A longer one is an error that names its row, never a silent cut; a longer
    text of method pretrain is read in several pieces."""

    packing: bool = True
    """Lay several examples into one row, without letting them see each other. Changes speed, not the loss."""

    seed: int = 0
    """Of the adapters' initial weights and the order of the data."""

    validation: Validate | None = None
    """Measure the loss on rows that are held out, beside the training; None: no row is held out."""

    early_stop: EarlyStop | None = None
    """End the run when that loss falls no more; needs `validation`."""

    @model_validator(mode="before")
    @classmethod
    def derive(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given, method = with_workers(dict(data)), data.get("method", "sft")
        default = (1e-6 if method in COMPARING else 2e-5) * (1 if data.get("lora") is None else 10)
        given["learning_rate"] = data.get("learning_rate") or default
        # The stored configuration holds every number, so the method's own section is always there.
        if method in COMPARING and data.get(method) is None:
            given[method] = {}
        return given

    @model_validator(mode="after")
    def check(self) -> Self:
        check_split(self)
        if self.max_tokens > self.micro_tokens:
            raise ValueError(
                f"micro_tokens is {self.micro_tokens}, an example may have {self.max_tokens}: raise micro_tokens"
            )
        if self.early_stop is not None and self.validation is None:
            raise ValueError(
                "early_stop goes by the loss on held-out rows: add validation, such as {every: 50}"
            )
        for method in COMPARING:
            if getattr(self, method) is not None and self.method != method:
                raise ValueError(
                    f"{method} has settings, but method is {self.method}: remove {method}, or set "
                    f"method to {method}"
                )
        if self.method not in ("sft", "tool") and self.loss_on != "assistant":
            raise ValueError(
                f"loss_on is {self.loss_on}, which is for sft and tool; method is {self.method}: "
                "leave loss_on out"
            )
        if self.method == "kto" and self.batch < 2:
            raise ValueError(f"batch is {self.batch}, kto compares answers within a step: use 2 or more")
        refuse_bad_combinations(self.model_dump())
        return self


class ImportConfig(Config):
    """A base that exists already: a local directory, or a repository on the Hugging Face hub."""

    path: str | None = None
    """Directory in Hugging Face layout, with safetensors."""

    hub: str | None = None
    """Repository, such as org/name."""

    revision: str | None = None
    """Branch, tag or commit on the hub; pin a commit, for a branch moves."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("a base needs either path or hub: give one of them")
        if self.revision is not None and self.hub is None:
            raise ValueError(f"revision is {self.revision}, but path has no revisions: leave revision out")
        return self


def check_split(config: PretrainConfig | TrainConfig) -> None:
    """Each worker gets the same number of rows in a step; of an elastic run's at least one.

    Raises:
        ValueError: `resources` and `workers` differ, `workers` does not divide `batch`, or there would be too few rows or workers.
    """
    check_resources(config)
    batch, workers, least = config.batch, config.workers, config.min_workers
    if least is not None:
        if least > workers:
            raise ValueError(f"min_workers is {least}, workers {workers}: lower min_workers or raise workers")
        if batch < workers:
            raise ValueError(f"batch is {batch}, some of {workers} workers would have no row: raise batch")
        return
    if batch % workers:
        nearest = max(workers, round(batch / workers) * workers)
        raise ValueError(f"batch is {batch}, which {workers} workers cannot share equally: use {nearest}")
