from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raymill.evaluate.child import ChildFailed
from raymill.evaluate.gguf_export import complete_vocabulary, export_f16
from raymill.evaluate.gguf_file import read_tensors
from raymill.evaluate.gguf_model import GgufModel
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.llama_cpp_runner import LlamaCppRunner
from raymill.evaluate.parity import compare
from raymill.evaluate.prompts import Conversation


def nothing() -> None:
    return


def test_f16_answers_as_the_model_does_and_reads_prompts_alike(
    tiny_model: Path, f16: Path, conversations: list[Conversation]
) -> None:
    theirs = HfModel(str(tiny_model)).generate(conversations, 24)
    gguf = GgufModel(str(tiny_model), threads=2)
    made = gguf.generate(str(f16), conversations, 24)
    gguf.close()
    report = compare(theirs, made["answers"], made["same_tokens"])
    assert report["prompts"] == 23
    assert report["template_identical"]
    assert report["same_first_token"] == 23
    assert report["agreement"] >= 0.8


def test_a_batch_of_llama_cpp_gives_what_each_prompt_gets_alone(
    tiny_model: Path, f16: Path, conversations: list[Conversation]
) -> None:
    gguf = GgufModel(str(tiny_model))
    together = gguf.generate(str(f16), conversations, 16)["answers"]
    alone = [gguf.generate(str(f16), [conversation], 16)["answers"][0] for conversation in conversations]
    gguf.close()
    same = sum(one["tokens"] == other["tokens"] for one, other in zip(together, alone, strict=True))
    assert same >= 21  # the cache is F16: sums in another order may tip a near tie


def test_rows_that_do_not_fit_a_k_quant_are_reported(tmp_path: Path) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_tensor("narrow.weight", np.ones((4, 32), dtype=np.float16))
    writer.add_tensor("norm.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = read_tensors(tmp_path / "odd.gguf", "Q4_K_M")
    assert report.types == {"narrow.weight": GGMLQuantizationType.F16.name, "norm.weight": "F32"}
    assert report.fallbacks == ["narrow.weight"]


def test_a_crash_of_llama_cpp_is_an_error_with_its_signal(f16: Path) -> None:
    with LlamaCppRunner(f16) as runner:
        assert runner.ready["trained_context"] == 512
        os.kill(runner._process.pid, signal.SIGSEGV)
        with pytest.raises(ChildFailed, match=r"while generating tiny\.gguf: killed by SIGSEGV"):
            runner.generate([[1, 2, 3]], max_new_tokens=2, stops=[])


def test_llama_cpp_ends_with_the_process_that_started_it(f16: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from raymill.evaluate.llama_cpp_runner import LlamaCppRunner\n"
        f"runner = LlamaCppRunner(Path({str(f16)!r})); assert runner.ready\n"
        "print(runner._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    gone, alive = psutil.wait_procs([child], timeout=60)
    assert gone
    assert not alive


def test_a_file_that_is_no_gguf_is_one_clear_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    with LlamaCppRunner(bad) as runner, pytest.raises(ChildFailed, match=r"loading bad\.gguf: exit code 1"):
        runner.tokenize(["x"])


def test_a_model_that_the_converter_does_not_know_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"], "model_type": "llama"}')
    with pytest.raises(ChildFailed, match=r"converting .* failed: exit code 1.*NoSuchModel"):
        export_f16(tmp_path, tmp_path / "out.gguf", tmp_path, nothing)
    assert not (tmp_path / "out.gguf").exists()


def test_a_tokenizer_json_alone_gives_the_same_tokens_in_llama_cpp(
    tiny_model: Path, tmp_path: Path, conversations: list[Conversation]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in tiny_model.iterdir():
        if path.name != "tokenizer.model":
            (bare / path.name).write_bytes(path.read_bytes())
    target = tmp_path / "bare.gguf"
    export_f16(bare, target, tmp_path, nothing)
    assert not complete_vocabulary(target, bare), "the export has done it already"
    gguf = GgufModel(str(bare))
    same_tokens = gguf.generate(str(target), conversations, 1)["same_tokens"]
    gguf.close()
    assert all(same_tokens)
