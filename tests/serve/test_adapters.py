"""Adapters that share an engine: which are refused and why, what an engine keeps loaded, what the registry makes of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.registry.making import World

from raymill.cluster.applications import answering_application, application_for, ours
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid
from raymill.registry import deployments
from raymill.registry.artifacts import Tampered, digest_files, tree_digest
from raymill.registry.signing import Revoked, Unsigned, sign_statement
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import Attestation, Deployment, DeploymentState, LlmVersion
from raymill.serve import specs
from raymill.serve.llm.adapter_shelf import AdapterShelf
from raymill.serve.llm.adapters import Adapter, Keys
from raymill.serve.llm.answer import Failure
from raymill.serve.llm.config import LoraServing, ServeConfig
from raymill.serve.llm.rollout import code_version, told_of
from raymill.serve.llm.spec import DeploySpec, SharedBase

LORA = LoraServing()
PEFT = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


@dataclass
class Signed:
    """A base and adapters of it, signed as a promotion signs them."""

    ring: KeyRing
    folder: Path
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.base.mkdir()
        (self.base / "model.safetensors").write_bytes(bytes(1000))
        self.digest = tree_digest(digest_files(self.base))

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def keys(self) -> Keys:
        return Keys(public=self.ring.public_keys(), revoked=self.ring.revoked())

    def adapter(self, name: str = "triage@1", *, base: str | None = None, **peft: Any) -> Adapter:
        directory = self.folder / name
        directory.mkdir()
        (directory / "adapter_config.json").write_text(json.dumps({**PEFT, **peft}))
        (directory / "adapter_model.safetensors").write_bytes(name.encode())
        artifact = f"adapter/triage/{name}"
        said = {"base": {"artifact": "base/triage/1", "digest": base or self.digest}}
        envelope = sign_statement(self.ring.signer(), digest_files(directory), said, artifact)
        return Adapter(name=name, artifact=artifact, directory=directory, envelope=envelope)

    def spec(self, *adapters: Adapter) -> DeploySpec:
        return DeploySpec(
            name="base/triage/1",
            version=0,
            directory=self.base,
            envelope=None,
            public_keys=self.keys.public,
            revoked=dict(self.keys.revoked),
            config=ServeConfig(lora=LORA),
            shared=SharedBase(application="lora-1", digest=self.digest, adapters=adapters),
        )


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    ring = KeyRing(tmp_path / "keys")
    ring.create_if_missing()
    return Signed(ring, tmp_path)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_an_adapter_is_verified_with_the_base_that_it_was_trained_on(signed: Signed) -> None:
    adapter = signed.adapter()
    adapter.verify(signed.digest, signed.keys, LORA)
    assert Adapter.of_json(json.loads(json.dumps(adapter.to_json()))) == adapter
    with pytest.raises(Invalid, match=f"triage@1 was trained on base {signed.digest[:12]}, and this engine"):
        adapter.verify("0" * 64, signed.keys, LORA)
    flip(adapter.directory / "adapter_model.safetensors")
    with pytest.raises(Tampered, match=r"adapter_model\.safetensors in artifact triage@1 has sha256"):
        adapter.verify(signed.digest, signed.keys, LORA)


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"r": 24}, "triage@1 has rank 24, which is greater than serve.lora.max_rank 16: set it to 32"),
        ({"r": 900}, "greater than serve.lora.max_rank 16: vLLM serves at most 512, or leave serve.lora out"),
        ({"use_dora": True}, r"triage@1 is DoRA \(use_dora\), which vLLM does not serve as an adapter"),
        ({"modules_to_save": ["lm_head"]}, r"has modules that were trained whole \(modules_to_save\)"),
        ({"rank_pattern": {"q_proj": 4}}, "has other ranks for some modules"),
        ({"bias": "all"}, r"has biases \(all\), which vLLM does not serve in an adapter"),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_is_refused_with_the_cure(
    signed: Signed, peft: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        signed.adapter(**peft).verify(signed.digest, signed.keys, LORA)


def test_a_base_is_what_those_who_signed_its_adapters_say(signed: Signed) -> None:
    adapter, foreign = signed.adapter(), signed.adapter("triage@2", base="f" * 64)
    signed.spec(foreign, adapter).verify()
    with pytest.raises(Invalid, match="triage@2 was trained on base ffffffffffff, not on"):
        signed.spec(foreign).verify()
    with pytest.raises(Unsigned, match="no adapter vouches for base base: promote a version of it"):
        signed.spec().verify()
    with pytest.raises(Invalid, match="one needs the other"):
        replace(signed.spec(adapter), config=ServeConfig())
    flip(signed.base / "model.safetensors")
    with pytest.raises(Tampered, match=f"base base has digest .*, {signed.digest[:12]} was signed: restore"):
        signed.spec(adapter).verify()
    signed.ring.revoke(signed.ring.key_id(), reason="lost", by="ada")
    with pytest.raises(Revoked):
        signed.spec(adapter).verify()


def test_one_more_adapter_restarts_no_replica(signed: Signed) -> None:
    one = signed.spec(signed.adapter())
    two = signed.spec(*one.shared.adapters if one.shared else (), signed.adapter("triage@2"))
    assert code_version(one) == code_version(two)
    told = told_of(two)
    assert told is not None
    assert [each["name"] for each in told["adapters"]] == ["triage@1", "triage@2"]
    assert (one.application, one.served_name) == ("lora-1", "base/triage/1")


class Engine:
    """What vLLM would have loaded."""

    def __init__(self, room: int) -> None:
        self.loaded: list[str] = []
        self.verified: list[str] = []
        self.refused: set[str] = set()
        self.shelf = AdapterShelf(room=room, verify=self.verify, load=self.load, unload=self.unload)

    def verify(self, adapter: Adapter) -> None:
        self.verified.append(adapter.name)
        if adapter.name in self.refused:
            raise Tampered(f"{adapter.name} was changed: restore it")

    async def load(self, name: str, _: Path) -> None:
        await asyncio.sleep(0.01)
        self.loaded.append(name)

    async def unload(self, name: str) -> None:
        self.loaded.remove(name)

    def tell(self, *names: str) -> None:
        made = [Adapter(name=name, artifact=name, directory=Path(name), envelope={}) for name in names]
        self.shelf.tell(made)

    async def ask(self, name: str) -> Failure | None:
        async with self.shelf.holding(name) as refused:
            assert refused is not None or name in self.loaded
            return refused


def run(steps: Callable[[Engine], Any], room: int = 2) -> None:
    async def all_steps() -> None:
        await steps(Engine(room))

    asyncio.run(all_steps())


def test_an_adapter_is_verified_each_time_it_is_loaded_and_stays_while_there_is_room() -> None:
    async def steps(engine: Engine) -> None:
        engine.tell("a", "b", "c")
        assert await asyncio.gather(*(engine.ask("a") for _ in range(5))) == [None] * 5
        assert engine.verified == ["a"]
        await engine.ask("b")
        await engine.ask("a")
        await engine.ask("c")  # b was asked for least recently
        assert engine.loaded == ["a", "c"]
        async with engine.shelf.holding("a"), engine.shelf.holding("c"):
            await engine.ask("b")  # nobody's answer is taken away
            assert engine.loaded == ["a", "c", "b"]
        await engine.ask("b")
        assert engine.verified == ["a", "b", "c", "b"]

    run(steps)


def test_a_refused_adapter_harms_no_other_and_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymill.serve.llm.adapter_shelf.NEWS_S", 0.1)

    async def steps(engine: Engine) -> None:
        engine.tell("a", "b")
        engine.refused = {"a"}
        assert await engine.ask("a") == Failure(503, "tampered", "a was changed: restore it")
        assert await engine.ask("b") is None
        engine.refused = set()
        assert await engine.ask("a") is None
        unknown = await engine.ask("c")
        assert unknown is not None
        assert (unknown.status, unknown.code) == (503, "adapter_unknown")
        waiting = asyncio.create_task(engine.ask("c"))  # it is here before the news
        await asyncio.sleep(0)
        engine.tell("c")
        assert await waiting is None
        assert await engine.ask("a") is not None  # it is served no more

    run(steps)


def test_versions_of_one_base_have_one_application_and_their_adapters_are_signed(world: World) -> None:
    base = {"model.safetensors": b"one base", "config.json": b"{}"}
    adapter = {"adapter_config.json": json.dumps(PEFT).encode(), "adapter_model.safetensors": b"a"}
    for name in ("triage", "refunds"):
        world.promote(world.make_version(name, base_files=base, adapter_files=adapter), name=name)
    world.make_version("whole", base_files=base)
    shared, alone = {"engine": "vllm", "lora": {}}, {"engine": "vllm"}
    settings = Settings(home=world.home)
    with world.database.transaction() as session:
        versions = {each.llm.name: each for each in session.scalars(select(LlmVersion))}
        names = {application_for(session, each, shared) for each in versions.values()}
        (name,) = names
        other = application_for(session, versions["triage"], {**shared, "replicas": 2})
        assert other.rpartition("-")[0] == name.rpartition("-")[0]
        assert other != name
        assert application_for(session, versions["triage"], alone) == "llm-triage-1"
        theirs = {"lora-000000000000-00000000", "llm-other-1", "gateway"}
        assert ours(session, {name, "llm-triage-1"} | theirs) == {name, "llm-triage-1", "gateway"}
        signed = set(session.scalars(select(Attestation.artifact_name)))
        assert len([each for each in signed if each.startswith("adapter/")]) == 2
        adapters = [specs.adapter_spec(session, settings, versions[each]) for each in ("triage", "refunds")]
        with pytest.raises(Invalid, match="whole@1 has none, all its weights were tuned: leave lora out"):
            specs.adapter_spec(session, settings, versions["whole"])
        config = ServeConfig.model_validate(shared)
        spec = specs.shared_spec(session, settings, versions["triage"].id, config, name, adapters, "")
    spec.verify()
    assert spec.shared is not None
    assert [each.name for each in spec.shared.adapters] == ["refunds@1", "triage@1"]
    for each in spec.shared.adapters:
        each.verify(spec.shared.digest, spec.keys, LORA)


def test_the_engine_that_answers_does_until_the_one_of_new_settings_is_ready(world: World) -> None:
    world.promote(world.make_version())
    world.serve()

    def answering() -> str | None:
        with world.database.transaction() as session:
            return answering_application(session, session.scalars(select(Deployment)).one())

    def ready(application: str | None) -> None:
        with world.database.transaction() as session:
            row = session.scalars(select(Deployment)).one()
            version = session.scalars(select(LlmVersion)).one()
            deployments.report(
                session, row.llm_id, "production", DeploymentState.READY, version.id, "", None, application
            )

    assert answering() is None
    ready(None)  # as releases before did
    assert answering() == "llm-support-triage-1"
    ready("llm-support-triage-1")
    world.serve(config={"engine": "vllm", "lora": {}})
    assert answering() == "llm-support-triage-1"
    ready("lora-0123456789ab-01234567")
    assert answering() == "lora-0123456789ab-01234567"
