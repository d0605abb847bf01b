"""Train a tokenizer from text: byte-fallback BPE in the style of Llama's SentencePiece.

llama.cpp's converter knows byte-level BPE tokenizers only by a list of hashes, so a self-trained one is
refused; a SentencePiece model converts, scores included. We therefore train `tokenizer.model` and derive
`tokenizer.json` from it: both give the same ids, and every later stage (transformers, vLLM, llama.cpp)
reads the one it prefers. No text is unknown: what the vocabulary lacks becomes bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymill.cluster.plain import last_line
from raymill.policies.errors import Invalid
from raymill.train.template import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS, UNKNOWN

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizerBase

SPACE = "\u2581"
"""How SentencePiece writes a space inside a token."""

SMALLEST_VOCAB = 256 + 1 + len(SPECIAL_TOKENS)
MAX_SENTENCE_BYTES = 1 << 16


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of any base, with its chat template.

    Raises:
        Invalid: it has no chat template, so conversations cannot be rendered.
    """
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        # AutoTokenizer imports every model's configuration: 8 s of CPU against 1 s.
        from transformers import PreTrainedTokenizerFast as Loader
    else:
        from transformers import AutoTokenizer as Loader
    tokenizer: PreTrainedTokenizerBase = Loader.from_pretrained(str(directory), local_files_only=True)
    if not tokenizer.chat_template:
        raise Invalid("the base's tokenizer has no chat template: use an instruction-tuned base, or add one")
    return tokenizer


def read_documents(path: Path) -> list[str]:
    """The documents of a text file: what lies between empty lines.

    Raises:
        Invalid: the file is not UTF-8, or holds no text.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(f"{path.name} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    documents = [block.strip("\n") for block in text.replace("\r\n", "\n").split("\n\n")]
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise Invalid(f"{path.name} holds no text: give a file with at least one document")
    return documents


def train_tokenizer(documents: Iterable[str], vocab: int, directory: Path) -> None:
    """Write a tokenizer of `vocab` tokens with its chat template to `directory`, in Hugging Face layout.

    Raises:
        Invalid: the text has too little variety for `vocab` tokens; the message says how many it has.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines_of(documents),
            model_writer=model,  # a prefix would leave its path in the file
            model_type="bpe",
            vocab_size=vocab,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            max_sentence_length=MAX_SENTENCE_BYTES,
            num_threads=1,  # the order of ties must not depend on the machine
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_piece=UNKNOWN,
            control_symbols=list(SPECIAL_TOKENS),
            minloglevel=2,
        )
    except RuntimeError as error:
        raise Invalid(
            f"vocab is {vocab}, but the text cannot fill it ({last_line(error)}): lower vocab or give more text"
        ) from error
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    write_fast_tokenizer(directory)


def lines_of(documents: Iterable[str]) -> Iterator[str]:
    # SentencePiece treats a line as a sentence; a newline itself is always its byte token.
    for document in documents:
        for line in document.split("\n"):
            for start in range(0, len(line), MAX_SENTENCE_BYTES // 4):
                yield line[start : start + MAX_SENTENCE_BYTES // 4]


def write_fast_tokenizer(directory: Path) -> None:
    """Derive tokenizer.json, tokenizer_config.json and the chat template from tokenizer.model."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    fast = Tokenizer(
        models.BPE(
            vocab={processor.id_to_piece(i): i for i in range(processor.get_piece_size())},
            merges=merges_of(processor),
            unk_token=UNKNOWN,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Replace(" ", SPACE)
    fast.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    fast.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token=UNKNOWN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=1 << 30,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(directory))
    finish_config(directory, processor)


def merges_of(processor: SentencePieceProcessor) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, the best-scored result first, as SentencePiece merges."""
    normal = {
        processor.id_to_piece(i): processor.get_score(i)
        for i in range(processor.get_piece_size())
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    }
    found: list[tuple[float, int, str, str]] = []
    for piece, score in normal.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in normal and right in normal:
                found.append((-score, cut, left, right))
    return [(left, right) for _, _, left, right in sorted(found)]


def finish_config(directory: Path, processor: SentencePieceProcessor) -> None:
    """What llama.cpp's converter reads from tokenizer_config.json and transformers 5 does not write."""
    path = directory / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config |= {"add_bos_token": False, "add_eos_token": False, "add_prefix_space": False}
    config["chat_template"] = CHAT_TEMPLATE
    config["added_tokens_decoder"] = {
        str(processor.piece_to_id(token)): {"content": token, "special": True, "normalized": False}
        for token in (UNKNOWN, *SPECIAL_TOKENS)
    }
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
