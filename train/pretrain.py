"""Pre-train a small Llama and its tokenizer from a text file, so that a demonstration needs no download.

The driver trains the tokenizer and lays the text out as one stream of ids; the workers train the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raymill.cluster.context import JobContext, JsonObject
from raymill.policies.errors import Invalid
from raymill.train.config import PretrainConfig
from raymill.train.launch import EXPORT, launch

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from raymill.train.worker import Task

TOKENIZER = "tokenizer"
STREAM = "stream.npy"


def pretrain(config: PretrainConfig, context: JobContext) -> JsonObject:
    """Train the model into `export/` under the work directory; what the run did, as JSON.

    Raises:
        Invalid: the text is unusable: not UTF-8, too short for a window, too plain for the vocabulary.
    """
    stream = context.work_dir / STREAM
    if not stream.is_file():
        context.event("phase", name="tokenize")
        write_stream(config, context.work_dir)
    return launch(pretrain_worker, {"config": config.model_dump()}, config, context)


def write_stream(config: PretrainConfig, work_dir: Path) -> None:
    """The tokenizer, and the text as ids: each document followed by the token that ends a turn."""
    from raymill.train.tokenizer import load_tokenizer, read_documents, train_tokenizer

    documents = read_documents(Path(config.text))
    train_tokenizer(documents, config.vocab, work_dir / TOKENIZER)
    tokenizer = load_tokenizer(work_dir / TOKENIZER)
    ids = stream_of(tokenizer, documents)
    if len(ids) <= config.seq_tokens:
        raise Invalid(
            f"{Path(config.text).name} has {len(ids)} tokens, a window {config.seq_tokens}: give more text "
            "or lower seq_tokens"
        )
    partial = work_dir / f"partial-{STREAM}"
    np.save(partial, ids)
    partial.rename(work_dir / STREAM)


def stream_of(
    tokenizer: PreTrainedTokenizerBase, documents: list[str]
) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    encoded = tokenizer(documents, add_special_tokens=False)["input_ids"]
    return np.concatenate([np.asarray([*ids, tokenizer.eos_token_id], dtype=np.int32) for ids in encoded])


def pretrain_worker(settings: JsonObject) -> None:
    """What each Ray Train worker runs."""
    from raymill.train.worker import run_worker

    run_worker(settings, task_of)


def task_of(settings: JsonObject) -> Task:
    from raymill.train.batches import WindowShares
    from raymill.train.export import write_model
    from raymill.train.tokenizer import load_tokenizer
    from raymill.train.worker import Task

    config = PretrainConfig.model_validate(settings["config"])
    work_dir = Path(settings["work_dir"])
    tokenizer = load_tokenizer(work_dir / TOKENIZER)

    def build() -> nn.Module:
        return build_llama(config, tokenizer)

    return Task(
        build=build,
        shares=WindowShares(
            np.load(work_dir / STREAM, mmap_mode="r"),
            end_id=tokenizer.eos_token_id,
            batch=config.batch,
            steps=config.steps,
            seed=config.seed,
            window=config.seq_tokens,
        ),
        export=lambda model: write_model(
            model, work_dir / TOKENIZER, work_dir / EXPORT, [tokenizer.eos_token_id]
        ),
        use=config,
        learning_rate=config.learning_rate,
        warmup_share=config.warmup_share,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
    )


def build_llama(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """A Llama with fresh weights, the same for the same seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    model: nn.Module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.ffn,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.hidden // config.heads,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # The usual 0.02 leaves a narrow model with embeddings so short that tokens which the text seldom
            # has cannot be told with certainty later, when adapters learn and embeddings stay as they are.
            initializer_range=config.hidden**-0.5,
        )
    )
    return model
