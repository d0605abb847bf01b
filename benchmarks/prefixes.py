"""Conversations on two vLLM replicas, routed by prefix and balanced: what the prefix caches spare, and how soon answers begin.

    python -m benchmarks.prefixes [--quick]

Real Serve, real vLLM on the CPU, a small Llama of random weights, the gateway's own way to engines. Rounds take turns between
both routings on the same two engines; each has texts of its own, so no round finds what another left. Times are milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import psutil
import ray
from benchmarks import report
from ray import serve
from ray.serve import RunTarget
from tests.llama import random_llama

from raymill.registry.artifacts import digest_files
from raymill.registry.signing import sign_statement
from raymill.registry.signing_keys import KeyRing
from raymill.serve.gateway.catalog import Served
from raymill.serve.gateway.upstream import ServeEngines
from raymill.serve.llm.answer import Failure
from raymill.serve.llm.config import Routing, ServeConfig
from raymill.serve.llm.rollout import application_of
from raymill.serve.llm.spec import DeploySpec
from raymill.serve.llm.vllm_engine import VllmEngine, vllm_options

WORDS = [
    "parcel",
    "invoice",
    "late",
    "please",
    "refund",
    "my",
    "order",
    "is",
    "screen",
    "broken",
    "wrong",
    "now",
]
ARTIFACT = "model/triage/000000000001"
SHAPE = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8}


@dataclass(frozen=True, kw_only=True)
class Plan:
    rounds: int = 2
    """Of each routing."""

    conversations: int = 8
    turns: int = 5
    at_once: int = 4
    """Requests; the turn that comes next is one of any conversation that waits for none."""

    system_words: int = 300
    """Shared by the conversations of a round."""

    document_words: int = 600
    """Of each conversation, in its first message."""

    alike: int = 40
    """Requests that all begin the same, twice as many at once."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    first_ms: float
    prompt_tokens: int
    cached_tokens: int
    text: str


def text_of(words: int, seed: str) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choices(WORDS, k=words))


class Conversation:
    def __init__(self, system: str, name: str, document_words: int) -> None:
        self._name = name
        self.messages = [{"role": "system", "content": system}]
        self._document = text_of(document_words, name)

    def body(self) -> dict[str, Any]:
        turn = len(self.messages) // 2
        asked = text_of(20, f"{self._name} {turn}")
        self.messages.append({"role": "user", "content": f"{self._document} {asked}" if turn == 0 else asked})
        return {
            "model": "triage@1",
            "messages": self.messages,
            "max_tokens": 16,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


class Counting(VllmEngine):
    """Leaves a mark for each request, in a file of its replica."""

    async def chat_stream(self, body: Any) -> Any:
        with (Path(os.environ["COUNTS"]) / str(os.getpid())).open("a") as file:
            file.write("x")
        async for piece in super().chat_stream(body):
            yield piece


class Bench:
    def __init__(self, plan: Plan, counts: Path) -> None:
        self._plan = plan
        self._counts = counts
        self._engines = ServeEngines()

    async def ask(self, routing: Routing, body: dict[str, Any]) -> Answer:
        served = Served(name="triage", version=1, application="llm-triage-1", routing=routing)
        started, first_s, text = time.perf_counter(), None, ""
        usage: dict[str, Any] = {}
        async for piece in self._engines.pieces(served, "chat", body):
            assert not isinstance(piece, Failure), piece
            first_s = first_s or time.perf_counter() - started
            for line in piece.splitlines():
                chunk = json.loads(line)
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
        assert first_s is not None
        details = usage["prompt_tokens_details"] or {}
        return Answer(
            first_ms=1000 * first_s,
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=details.get("cached_tokens") or 0,
            text=text,
        )

    async def talk(self, routing: Routing, seed: str) -> dict[str, Any]:
        """Conversations whose turns come in any order."""
        plan = self._plan
        system = text_of(plan.system_words, seed)
        waiting = [
            Conversation(system, f"{seed} {n}", plan.document_words) for n in range(plan.conversations)
        ]
        left = dict.fromkeys(waiting, plan.turns)
        draw = random.Random(seed)
        answers: list[tuple[int, Answer]] = []

        async def worker() -> None:
            while waiting:
                one = waiting.pop(draw.randrange(len(waiting)))
                turn = plan.turns - left[one]
                answer = await self.ask(routing, one.body())
                one.messages.append({"role": "assistant", "content": answer.text})
                answers.append((turn, answer))
                left[one] -= 1
                if left[one]:
                    waiting.append(one)

        before, started = self.counts(), time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(plan.at_once)))
        took_s = time.perf_counter() - started
        later = [answer for turn, answer in answers if turn > 0]
        return {
            "requests": len(answers),
            "seconds": round(took_s, 2),
            "prompt_tokens": sum(each.prompt_tokens for _, each in answers),
            "cached_share": share(answer for _, answer in answers),
            "cached_share_of_later_turns": share(later),
            "first_ms_p50": round(statistics.median(each.first_ms for _, each in answers), 1),
            "first_ms_p50_of_later_turns": round(statistics.median(each.first_ms for each in later), 1),
            "answered_by_each": sorted((self.counts() - before).values()),
            "load": round(psutil.getloadavg()[0], 2),
        }

    async def alike(self, routing: Routing, seed: str) -> dict[str, Any]:
        """Requests with one beginning, more at once than one replica should have."""
        plan = self._plan
        system = text_of(plan.system_words, seed)
        left = [Conversation(system, f"{seed} {n}", 0) for n in range(plan.alike)]
        before = self.counts()

        async def worker() -> None:
            while left:
                await self.ask(routing, left.pop().body())

        await asyncio.gather(*(worker() for _ in range(2 * plan.at_once)))
        return {"answered_by_each": sorted((self.counts() - before).values())}

    def counts(self) -> Counter[str]:
        return Counter({path.name: path.stat().st_size for path in self._counts.iterdir()})


def share(answers: Iterable[Answer]) -> float:
    """Of all tokens of prompts, those that were cached."""
    found = list(answers)
    cached = sum(each.cached_tokens for each in found)
    return round(cached / sum(each.prompt_tokens for each in found), 4)


def deploy(folder: Path, counts: Path) -> None:
    """Two replicas, each with one thread and more cache than all conversations need."""
    documents = [
        " ".join(WORDS[(seed * 7 + step * step) % len(WORDS)] for step in range(9)) for seed in range(200)
    ]
    model, ids = random_llama(folder / "model", documents, max_position_embeddings=4096, **SHAPE)
    # Never the likeliest: halves of characters come out differently when text is decoded bit by bit.
    model.lm_head.weight.data[[ids[token] for token in ids if token.startswith("<0x")]] = 0.0
    model.save_pretrained(folder / "model")
    ring = KeyRing(folder / "keys")
    ring.create_if_missing()
    spec = DeploySpec(
        name="triage",
        version=1,
        artifact=ARTIFACT,
        directory=folder / "model",
        envelope=sign_statement(ring.signer(), digest_files(folder / "model"), {}, ARTIFACT),
        public_keys=ring.public_keys(),
        config=ServeConfig(
            replicas=2, dtype="float32", cpu_kv_cache_gib=0.5, max_model_len=4096, cpu_threads=1
        ),
    )
    options = vllm_options(spec)
    options["ray_actor_options"]["runtime_env"]["env_vars"]["COUNTS"] = str(counts)
    target = RunTarget(
        target=application_of(Counting, spec, **options), name=spec.application, route_prefix=None
    )
    serve.run_many([target])


async def measured(plan: Plan, counts: Path) -> dict[str, Any]:
    bench = Bench(plan, counts)
    await bench.alike("balanced", "warm")  # both replicas have answered
    rounds: dict[str, list[dict[str, Any]]] = {"balanced": [], "prefix": []}
    for number in range(plan.rounds):
        for routing in get_args(Routing)[:: 1 if number % 2 else -1]:
            rounds[routing].append(await bench.talk(routing, f"{routing} {number}"))
            print(routing, rounds[routing][-1], flush=True)
    one = {routing: await bench.alike(routing, f"alike {routing}") for routing in get_args(Routing)}

    def median(routing: str, what: str) -> float:
        return statistics.median(float(each[what]) for each in rounds[routing])

    whats = ("cached_share", "cached_share_of_later_turns", "first_ms_p50_of_later_turns", "seconds")
    return {
        "rounds": rounds,
        "one_prefix": one,
        "ratios_prefix_to_balanced": {
            what: round(median("prefix", what) / median("balanced", what), 3) for what in whats
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of fewer conversations")
    args = parser.parse_args()
    plan = Plan(rounds=1, conversations=6, turns=3, alike=24) if args.quick else Plan()
    results: dict[str, Any] = {"date": report.now(), "machine": report.machine(), "plan": vars(plan)}
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        counts.mkdir()
        os.environ["RAYMILL_HOME"] = folder
        ray.init(
            address="local", num_cpus=4, log_to_driver=False, include_dashboard=False, logging_level="WARNING"
        )
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        try:
            deploy(Path(folder), counts)
            results |= asyncio.run(measured(plan, counts))
        finally:
            serve.shutdown()
            ray.shutdown()
    print(json.dumps(results["ratios_prefix_to_balanced"] | results["one_prefix"], indent=1))
    print(f"written to {report.write(results, 'prefixes.json', whole=not args.quick)}")


if __name__ == "__main__":
    main()
