from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.quantize import Turn, judged, make_model, watched


def test_medians_are_compared_and_held_against_the_goals() -> None:
    turns = {
        "ours": [Turn(11.0, 1400), Turn(10.0, 1600), Turn(30.0, 1500)],
        "by_hand": [Turn(10.0, 2000), Turn(9.0, 1900), Turn(12.0, 1800)],
    }
    found = judged(turns, {"f16_bytes": 1000, "quantized_bytes": 300})
    assert (found["ours_s"], found["by_hand_s"], found["ours_over_by_hand"]) == (11.0, 10.0, 1.1)
    assert (found["ours_peak_bytes"], found["peak_over_f16"]) == (1600, 1.6)
    assert found["goals"] == {
        "ours_over_by_hand": {"goal": "<= 1.15", "met": True},
        "peak_over_f16": {"goal": "<= 1.5", "met": False},
    }


def test_the_memory_of_a_child_is_seen() -> None:
    script = "import time; held = bytearray(64 << 20); time.sleep(1)"

    def work_through() -> None:
        subprocess.run([sys.executable, "-c", script], check=True)

    turn = watched(work_through)
    assert turn.peak_bytes > 64 << 20
    assert turn.seconds >= 1


@pytest.mark.slow  # it writes a model of 1B when asked for; here a tiny one, yet torch is imported by a child
def test_a_model_is_made_on_the_spot(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 512,
    }
    make_model(tmp_path, shape)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["hidden_size"] == 64
    assert (tmp_path / "tokenizer.model").is_file()
