"""The two compiled programs: the mock upstream and the load generator, built when their source is newer.

Knows nothing of what is measured. Times are milliseconds where the name says so, sizes bytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from raymill.policies.errors import RaymillError

SOURCES = Path(__file__).resolve().parent
BIN = SOURCES.parent / ".bench" / "bin"
PROGRAMS = ("upstream", "load")

CHUNK_INTERVAL_MS = 100
"""Between two chunks of the mock's streams."""

PROMPT_TOKENS, ANSWER_TOKENS = 24, 48
"""As the mock counts them; of a stream it makes as many as were asked for."""

LOAD_TIMEOUT_S = 600.0


class BenchmarkFailed(RaymillError):
    """Something that the benchmark needs is missing or broke; the message says what."""


def build_programs() -> None:
    """Compile what is missing or older than its source.

    Raises:
        BenchmarkFailed: no compiler, or it refuses.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise BenchmarkFailed("g++ is not on the PATH: install it to build the mock upstream and the load")
    BIN.mkdir(parents=True, exist_ok=True)
    header = SOURCES / "http1.hpp"
    for name in PROGRAMS:
        source, program = SOURCES / f"{name}.cpp", BIN / name
        newest = max(source.stat().st_mtime, header.stat().st_mtime)
        if program.exists() and program.stat().st_mtime > newest:
            continue
        command = [compiler, "-O2", "-std=c++17", "-Wall", "-o", str(program), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkFailed(f"g++ refuses {source.name}: {done.stderr.strip()[:500]}")


def upstream_command(port: int) -> list[str]:
    return [str(BIN / "upstream"), str(port), str(CHUNK_INTERVAL_MS)]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where and how a system is asked for the same chat completion."""

    url: str
    model: str
    headers: tuple[str, ...] = field(default=(), repr=False)
    """Each as `name: value`; a key may be among them."""

    def body(self, *, stream: bool, max_tokens: int) -> str:
        messages = [
            {"role": "system", "content": "You are a friendly assistant of the support desk."},
            {"role": "user", "content": "The router on floor two is down again, please hurry."},
        ]
        request: dict[str, Any] = {"model": self.model, "messages": messages, "max_tokens": max_tokens}
        return json.dumps(request | {"stream": True} if stream else request)


class Percentiles(NamedTuple):
    """Milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Load:
    """How hard to ask: `seconds` after `warmup_s`, or a number of requests."""

    connections: int
    seconds: float = 0.0
    warmup_s: float = 0.0
    requests: int = 0
    stream: bool = False
    max_tokens: int = 64
    """Of a stream also its number of chunks."""


class Outcome(NamedTuple):
    """What came back in the measured time; `answered` is all good answers, warm-up and end included."""

    requests: int
    errors: int
    requests_per_s: float
    latency_ms: Percentiles | None
    answered: int
    failed: int
    """All requests, warm-up and end included, that got no good answer."""

    first_data_ms: Percentiles | None
    """Of streams: from the request to the first event."""

    broken: int
    events: int
    first_error: str | None


def run_load(endpoint: Endpoint, load: Load) -> Outcome:
    """Run the load generator to its end.

    Raises:
        BenchmarkFailed: it could not run. Errors of the system under load are part of the outcome.
    """
    command = [str(BIN / "load"), endpoint.url, "--connections", str(load.connections)]
    command += ["--body", endpoint.body(stream=load.stream, max_tokens=load.max_tokens)]
    command += ["--requests", str(load.requests)] if load.requests else ["--seconds", str(load.seconds)]
    command += ["--warmup", str(load.warmup_s)]
    command += [text for header in endpoint.headers for text in ("--header", header)]
    command += ["--stream"] if load.stream else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BenchmarkFailed(f"the load on {endpoint.url} took over {LOAD_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise BenchmarkFailed(f"the load generator failed: {done.stderr.strip()[:500]}")
    return _outcome(json.loads(done.stdout))


def _outcome(found: dict[str, Any]) -> Outcome:
    in_all = found["in_all"]
    return Outcome(
        requests=found["requests"],
        errors=found["errors"],
        requests_per_s=found["requests_per_s"],
        latency_ms=_percentiles(found["latency_us"]),
        answered=in_all["ok"],
        failed=in_all["bad_status"] + in_all["transport"] + in_all["broken_streams"],
        first_data_ms=_percentiles(found.get("first_data_us")),
        broken=in_all["broken_streams"],
        events=found.get("events", 0),
        first_error=found["first_error"],
    )


def _percentiles(found: dict[str, int] | None) -> Percentiles | None:
    return None if found is None else Percentiles(**{name: us / 1000 for name, us in found.items()})
