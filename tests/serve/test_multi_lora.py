"""Twenty adapters on one vLLM engine: from the registry to answers, by the reconciler's own steps; and what an adapter costs.

A Ray of its own, real Serve, real vLLM. Prints what it measured (`-s`).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import serve
from ray.serve import RunTarget
from ray.serve.schema import ApplicationStatusOverview
from sqlalchemy import select
from tests.llama import random_llama
from tests.registry.making import World

from raymill.cluster.settings import Settings
from raymill.registry.artifacts import digest_files, tree_digest
from raymill.registry.signing import sign_statement
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import Deployment, Llm
from raymill.serve.gateway.catalog import Served
from raymill.serve.gateway.upstream import ServeEngines
from raymill.serve.llm.adapters import Adapter
from raymill.serve.llm.answer import Failure
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.rollout import application_of
from raymill.serve.llm.spec import ENGINE, DeploySpec, SharedBase
from raymill.serve.llm.vllm_engine import VllmEngine, vllm_options
from raymill.serve.reconciler import Reconciler
from raymill.serve.registry_source import RegistrySource

pytestmark = [
    pytest.mark.slow,  # a Ray of its own, and vLLM starts twice: minutes
    pytest.mark.timeout(1200),
]

ADAPTERS = 20
FIRST_S = 3.0
ADDED = 1.05
"""On a CPU, of a prompt and of tokens after it, to the base's time."""

LORA = {"max_loras": 4, "max_rank": 8, "max_cpu_loras": 32}
SERVE = {"engine": "vllm", "dtype": "float32", "cpu_kv_cache_gib": 0.1, "max_model_len": 256, "lora": LORA}
MEASURED = {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24}
"""Layers as a model of 3 billion weights has them. An adapter is two products for each of a layer's matrices, which take
nearly as long for small layers, and would be much of what those take."""

LOADS = {"1 token": ([9], 1), "prompt of 100 tokens": ([9] * 100, 1), "8 tokens": ([9], 8)}
"""Prompt and tokens to write. A prompt is shorter than a block of vLLM's cache, so it is computed each time."""

QUESTION = [{"role": "user", "content": "my parcel is late"}]
WORDS = ["parcel", "invoice", "late", "please", "refund", "my", "order", "is"]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=4, log_to_driver=False, include_dashboard=False, logging_level="WARNING"
    )
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    yield
    serve.shutdown()
    ray.shutdown()


def make_base(directory: Path, **shape: int) -> None:
    documents = [" ".join(WORDS[(seed * 7 + step * step) % 8] for step in range(9)) for seed in range(200)]
    model, ids = random_llama(directory, documents, max_position_embeddings=256, **shape)
    # Never the likeliest: halves of characters come out differently when text is decoded bit by bit.
    model.lm_head.weight.data[[ids[token] for token in ids if token.startswith("<0x")]] = 0.0
    model.save_pretrained(directory)


def make_adapters(base: Path, folder: Path, seeds: range, scale: float = 1.0) -> list[Path]:
    """Adapters of rank 8 on every linear layer, random, each another one."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    made = []
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", exclude_modules=["lm_head"], init_lora_weights=False
    )
    model: Any = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for seed in seeds:
        torch.manual_seed(seed)
        for name, weights in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weights, std=0.1 * scale)
        model.save_pretrained(folder / str(seed))
        made.append(folder / str(seed))
    return made


def expected(base: Path, adapter: Path, tokens: int) -> str:
    """A greedy answer by Hugging Face, with the adapter merged into the weights."""
    import torch
    from peft import PeftModel
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(base)
    whole: Any = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload()
    inputs = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0]
    text: str = tokenizer.decode(made[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "README.md"}


class OnlyEngines(Reconciler):
    """Without what people talk to: nothing listens here."""

    def _keep_faces(self, running: dict[str, ApplicationStatusOverview]) -> None:
        pass

    def close(self) -> None:
        self._database.close()


def replicas() -> set[int]:
    """Processes that hold an engine."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if "ServeReplica:lora-" in " ".join(process.info["cmdline"] or []):
            found.add(process.pid)
    return found


class House:
    """A registry and its reconciler, and versions that are adapters of one base."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.base = folder / "base"
        make_base(self.base, hidden_size=64, intermediate_size=128, num_attention_heads=2)
        self.adapters = make_adapters(self.base, folder / "adapters", range(ADAPTERS + 2))
        self.base_files = files_of(self.base)
        self.reconciler = OnlyEngines(Settings())
        self.engines = ServeEngines()

    def promote(self, name: str, adapter: int) -> None:
        files = files_of(self.adapters[adapter])
        number = self.world.make_version(name, base_files=self.base_files, adapter_files=files)
        assert self.world.promote(number, name=name).allowed

    def expected(self, adapter: int) -> str:
        return expected(self.base, self.adapters[adapter], 16)

    def states(self) -> dict[str, tuple[str, str]]:
        """Of each model's deployment: state and message."""
        with self.world.database.transaction() as session:
            rows = session.execute(select(Llm.name, Deployment.state, Deployment.message).join(Deployment))
            return {name: (state.value, message) for name, state, message in rows}

    def step_until(self, states: dict[str, str], within_s: float = 300) -> float:
        started = time.monotonic()
        while True:
            self.reconciler.step()
            now = self.states()
            if all(now[name][0] == state for name, state in states.items()):
                return time.monotonic() - started
            assert time.monotonic() - started < within_s, now
            time.sleep(0.2)

    async def served(self) -> dict[str, Served]:
        source = RegistrySource()
        snapshot = await source.load()
        await source.close()
        return {
            name: served
            for name, route in snapshot.routes.items()
            if (served := route.targets[0].served) is not None
        }

    async def ask(self, served: Served, tokens: int = 16) -> str:
        """As the gateway asks: it names the version as the model."""
        body = {"model": served.exact_name, "messages": QUESTION, "max_tokens": tokens, "temperature": 0.0}
        reply = await self.engines.whole(served, "chat", body)
        assert not isinstance(reply, Failure), reply
        answer = json.loads(reply)
        assert answer["model"] == served.exact_name
        text: str = answer["choices"][0]["message"]["content"]
        return text


@pytest.fixture
def house(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("RAYMILL_HOME", str(world.home))
    monkeypatch.setenv("RAYMILL_DATABASE_URL", world.database.url.render_as_string(hide_password=False))
    Settings().secret_box.create_if_missing()
    house = House(world, tmp_path)
    yield house
    house.reconciler.close()


def test_every_adapter_of_a_base_is_served_by_one_engine_from_the_registry_on(house: House) -> None:
    world, names = house.world, [f"triage-{number}" for number in range(ADAPTERS)]
    for number, name in enumerate(names):
        house.promote(name, number)
    world.serve(names[0], config=SERVE)
    say(f"one adapter, from nothing: {house.step_until({names[0]: 'ready'}):.1f} s")
    (first,) = replicas()
    for name in names[1:]:
        world.serve(name, config=SERVE)
    took_s = house.step_until(dict.fromkeys(names, "ready"))
    say(f"{ADAPTERS - 1} more: {took_s:.1f} s")
    assert replicas() == {first}

    async def all_asked() -> None:
        served = await house.served()
        assert len({served[name].application for name in names}) == 1
        firsts: list[float] = []
        again: list[float] = []
        answers: list[str] = []
        await house.ask(served[names[0]])
        for name in names[1:]:
            for times in (firsts, again):
                started = time.perf_counter()
                answer = await house.ask(served[name])
                times.append(time.perf_counter() - started)
            answers.append(answer)
        say(f"first use: {max(firsts):.2f} s at most, median {statistics.median(firsts):.2f} s")
        say(f"loaded: {max(again):.2f} s at most, median {statistics.median(again):.2f} s")
        assert max(firsts) <= FIRST_S
        assert answers[:4] == [house.expected(number) for number in range(1, 5)]
        assert len(set(answers)) > ADAPTERS // 2
        together = await asyncio.gather(*(house.ask(served[name]) for name in names[1:]))
        assert together == answers

    asyncio.run(all_asked())

    # A newer version takes the place of an older one, and one whose bytes were changed does not.
    house.promote(names[0], ADAPTERS)
    house.step_until({names[0]: "ready"})
    house.promote("bad", ADAPTERS + 1)
    (broken,) = (world.home / "artifacts" / "adapter" / "bad").rglob("adapter_model.safetensors")
    broken.write_bytes(broken.read_bytes()[:-1] + b"\x7f")
    world.serve("bad", config=SERVE)
    house.step_until({"bad": "failed", **dict.fromkeys(names, "ready")})
    assert house.states()["bad"][1].startswith("adapter_model.safetensors in artifact")

    async def newer_asked() -> None:
        house.engines = ServeEngines()  # of this event loop
        served = (await house.served())[names[0]]
        assert served.version == 2
        assert await house.ask(served) == house.expected(ADAPTERS)
        serve.delete(served.application)

    assert replicas() == {first}
    asyncio.run(newer_asked())


def test_an_adapter_is_loaded_within_seconds_and_adds_little_to_the_time_of_its_base(tmp_path: Path) -> None:
    base, ring = tmp_path / "base", KeyRing(tmp_path / "keys")
    ring.create_if_missing()
    make_base(base, **MEASURED)
    digest = tree_digest(digest_files(base))
    adapters = []
    for number, directory in enumerate(make_adapters(base, tmp_path / "adapters", range(ADAPTERS), 0.1)):
        artifact = f"adapter/triage/{number:012x}"
        said = {"base": {"artifact": "base/triage/1", "digest": digest}}
        envelope = sign_statement(ring.signer(), digest_files(directory), said, artifact)
        adapters.append(
            Adapter(name=f"triage@{number + 1}", artifact=artifact, directory=directory, envelope=envelope)
        )
    spec = DeploySpec(
        name="base",
        version=0,
        directory=base,
        envelope=None,
        public_keys=ring.public_keys(),
        # One thread, for others use this machine too; every adapter has a place in the batch.
        config=ServeConfig.model_validate(
            {**SERVE, "cpu_threads": 1, "lora": {**LORA, "max_loras": ADAPTERS}}
        ),
        shared=SharedBase(application="lora-measured", digest=digest, adapters=tuple(adapters)),
    )

    class Timed(VllmEngine):
        """Tells how long it takes itself, for the base too, which nobody else may ask."""

        def _adapter_of(self, request: Any) -> AbstractAsyncContextManager[Failure | None]:
            return nullcontext() if request.model == "base" else super()._adapter_of(request)

        async def seconds(self, models: list[str], load: str) -> list[tuple[float, float]]:
            """By the clock, and of this process's CPU: on a busy machine only that is the model's own."""
            prompt, tokens = LOADS[load]
            body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
            took = []
            for model in models:
                started = time.perf_counter(), time.process_time()
                reply = await self.completions({**body, "model": model})
                took.append((time.perf_counter() - started[0], time.process_time() - started[1]))
                assert not isinstance(reply, Failure), reply
            return took

    target = RunTarget(
        target=application_of(Timed, spec, **vllm_options(spec)), name=spec.application, route_prefix=None
    )
    serve.run_many([target])
    handle = serve.get_deployment_handle(ENGINE, spec.application)

    def seconds(models: list[str], load: str) -> list[tuple[float, float]]:
        took: list[tuple[float, float]] = handle.seconds.remote(models, load).result(timeout_s=600)
        return took

    names = [adapter.name for adapter in adapters]
    first, *loads = LOADS
    seconds(["base"], first)
    firsts = [clock for clock, _ in seconds(names, first)]
    say(f"first use, {first}: {max(firsts):.2f} s at most, median {statistics.median(firsts):.3f} s")
    added = {}
    for load in loads:
        pairs = [seconds(["base", name], load) for name in names[-15:]]
        for number, what in enumerate(("clock", "CPU")):
            base_s, adapter_s = (statistics.median(pair[which][number] for pair in pairs) for which in (0, 1))
            # Of each pair, which was measured at once: what others do changes less within it.
            added[load] = statistics.median(pair[1][number] / pair[0][number] for pair in pairs)
            say(f"{load}, {what}: base {base_s:.3f} s, adapter {adapter_s:.3f} s, ratio {added[load]:.3f}")
    assert max(firsts) <= FIRST_S
    assert max(added.values()) <= ADDED, added  # of CPU: the clock's, where nobody else computes
