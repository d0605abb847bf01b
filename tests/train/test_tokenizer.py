"""The tokenizer loses nothing, agrees with SentencePiece, and the mask covers the answers alone."""

import json
from pathlib import Path

import pytest
import sentencepiece

from raymill.policies.errors import Invalid
from raymill.train.template import IGNORE, encode, render
from raymill.train.tokenizer import load_tokenizer, read_documents, train_tokenizer

TEXT = [f"The {thing} number {n} is broken.\nPlease help {name}!" for n in range(20) for thing in
        ("router", "phone", "invoice", "login") for name in ("Mara", "Tom", "Priya")]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXT, 360, directory)
    return directory


def test_any_text_comes_back_as_it_was(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    assert len(tokenizer) == 360
    for text in ("", " ", "The router", "  two  spaces \n\n tab\t", "漢字 😀 é", "<0x41>", "\u2581 under"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")


def test_both_files_give_the_same_ids(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    original = sentencepiece.SentencePieceProcessor(model_file=str(trained / "tokenizer.model"))
    for text in (*TEXT, "rroouutteerr invoiceinvoice 12345 \n x", "Tomlog innumber"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == original.encode(text)


def test_the_same_text_gives_the_same_tokenizer(trained: Path, tmp_path: Path) -> None:
    train_tokenizer(TEXT, 360, tmp_path)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes(), name


def test_a_conversation_renders_as_the_template_says(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert render(tokenizer, messages, ask=True) == "<|system|>S<|end|><|user|>U<|end|><|assistant|>"


def test_the_loss_counts_what_the_assistant_says_and_the_end_of_its_turn(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    example = encode(
        tokenizer,
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
            {"role": "assistant", "content": "four"},
        ],
    )
    whole = "<|user|>one<|end|><|assistant|>two<|end|><|user|>three<|end|><|assistant|>four<|end|>"
    assert example.ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    counted = [i for i, label in zip(example.ids, example.labels, strict=True) if label != IGNORE]
    assert tokenizer.decode(counted) == "two<|end|>four<|end|>"


def test_a_role_written_in_a_message_gains_no_special_token_when_tokenizing_plain_text(
    trained: Path,
) -> None:
    config = json.loads((trained / "tokenizer_config.json").read_text())
    assert config["add_bos_token"] is False
    assert config["add_prefix_space"] is False


def test_a_template_that_rewrites_earlier_turns_is_refused(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(Invalid, match="rewrites turn 2"):
        encode(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_too_little_text_for_the_vocabulary_says_so(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"vocab is 2000, but the text cannot fill it") as caught:
        train_tokenizer(["abc abc abd"], 2000, tmp_path)
    assert "\n" not in str(caught.value)


def test_documents_lie_between_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"one\r\ntwo\r\n\r\n\r\nthree\n")
    assert read_documents(path) == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"a\xff", "not UTF-8 at byte 1"), (b" \n\n", "holds no text")]
)
def test_text_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(Invalid, match=message):
        read_documents(path)
