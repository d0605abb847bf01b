"""Starting, stopping in between, ending; and what an answer must have cost."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from benchmarks import gateway, vllm
from benchmarks.programs import Load, build_programs
from benchmarks.service import cost_micro_usd
from benchmarks.systems import Direct, LiteLlm, Missing, Uvicorn

from raymill.serve.llm.config import ServeConfig


@pytest.mark.parametrize("client", ["aiohttp", "httpx"])
def test_the_pass_through_answers_is_stopped_goes_on_and_ends(client: str, tmp_path: Path) -> None:
    build_programs()
    upstream = Direct(tmp_path)
    bare = Uvicorn("uvicorn", client, upstream, tmp_path)
    try:
        upstream.start()
        bare.start()
        [process] = bare.processes()
        bare.pause()
        deadline = time.monotonic() + 60  # a signal takes a moment to arrive
        while process.status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        bare.resume()
        assert bare.ask(Load(connections=4, requests=20)).answered == 20
        assert (bare.answered, bare.failed) == (22, 0)  # and one each to see that it is there
        assert bare.resident_bytes() > 1 << 20
    finally:
        bare.stop()
        upstream.stop()
    assert not process.is_running()
    assert bare.processes() == []


def test_a_peer_that_is_not_installed_is_missing_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.systems.BENCH", tmp_path)
    with pytest.raises(Missing, match="make bench-peers"):
        LiteLlm(Direct(tmp_path), tmp_path).start()


def test_an_answer_of_the_mock_has_a_known_price() -> None:
    # 24 tokens at 2.5 and 48 at 10 micro-dollars.
    assert cost_micro_usd(Load(connections=1)) == 540
    assert cost_micro_usd(Load(connections=1, stream=True, max_tokens=2)) == 80


def test_options_narrow_the_run_down() -> None:
    options = gateway.parse(["--quick", "--only", "raymill,uvicorn", "--seconds", "1"])
    assert options.only == ("raymill", "uvicorn")
    assert (options.plan.rounds, options.plan.seconds, options.plan.streams) == (1, 1.0, 100)
    with pytest.raises(SystemExit):
        gateway.parse(["--only", "nginx"])


def test_the_direct_vllm_is_set_like_the_replica(tmp_path: Path) -> None:
    serve = ServeConfig(dtype="bfloat16", cpu_threads=3, max_concurrent_requests=8, cpu_kv_cache_gib=0.25)
    options = vllm.Options(serve=serve)
    service = vllm.OverOwnModel(options)
    try:
        direct, stock = (vllm.DirectVllm(name, service, serve, tmp_path) for name in ("direct", "stock"))
        words = " ".join(direct.command())
        assert "--dtype bfloat16 --max-num-seqs 8" in words
        assert "--kv-cache-memory-bytes 268435456" in words
        assert direct.environment()["OMP_NUM_THREADS"] == "3"
        assert [each.environment()["CORE_IN_THREAD"] for each in (direct, stock)] == ["1", "0"]
    finally:
        service.folder.rmdir()
