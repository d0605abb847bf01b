"""One Ray, one vLLM engine and one llama.cpp engine for all tests of serving, behind one gateway."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fastapi import FastAPI
from tests.conftest import RunningService
from tests.llama import random_llama
from tests.registry.making import World
from tests.serve.control_app import app_of

from raymill.cluster.settings import Settings
from raymill.registry.artifacts import digest_files
from raymill.registry.signing import sign_statement
from raymill.registry.signing_keys import KeyRing
from raymill.serve.api.context import Parts
from raymill.serve.gateway.catalog import Served
from raymill.serve.gateway.snapshot import Caller, Snapshot, StaticSource, digest_of
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.spec import DeploySpec

KEY = "rm-0123456789abcdef"


class Endpoint(NamedTuple):
    """Where the gateway listens and what it lets in."""

    base_url: str
    api_key: str


@pytest.fixture
def app(world: World) -> FastAPI:
    """The control plane on an empty registry."""
    return app_of(Parts(settings=Settings(home=world.home), database=world.database))


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 64 wide and 2 layers in Hugging Face layout, random weights wide apart: no near ties."""
    directory = tmp_path_factory.mktemp("model")
    words = [
        "parcel",
        "invoice",
        "screen",
        "late",
        "broken",
        "wrong",
        "please",
        "refund",
        "my",
        "order",
        "now",
    ]
    documents = [" ".join(words[(seed * 7 + step * step) % 11] for step in range(9)) for seed in range(200)]
    documents.append("Größe 42 € naïve\ttab")
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    model, ids = random_llama(directory, documents, max_position_embeddings=256, **shape)
    # Never the likeliest: halves of characters come out differently when text is decoded bit by bit.
    model.lm_head.weight.data[[ids[token] for token in ids if token.startswith("<0x")]] = 0.0
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def gguf_directory(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a GGUF file of type Q8_0."""
    from raymill.evaluate.gguf_export import export_f16
    from raymill.evaluate.quantize import quantize

    work = tmp_path_factory.mktemp("quantize")
    directory = tmp_path_factory.mktemp("gguf")
    export_f16(model_directory, work / "f16.gguf", work, lambda: None)
    quantize(work / "f16.gguf", directory / "model-Q8_0.gguf", "Q8_0", work, lambda: None)
    return directory


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    ring = KeyRing(tmp_path_factory.mktemp("keys") / "signing")
    ring.create_if_missing()
    return ring


def signed_spec(
    directory: Path, keys: KeyRing, *, name: str, config: ServeConfig, gguf_file: str | None = None
) -> DeploySpec:
    """`directory`, signed as it is now, as version 1 of `name`."""
    artifact = f"model/{name}/000000000001"
    return DeploySpec(
        name=name,
        version=1,
        artifact=artifact,
        directory=directory,
        envelope=sign_statement(keys.signer(), digest_files(directory), {}, artifact),
        public_keys=keys.public_keys(),
        config=config,
        gguf_file=gguf_file,
    )


def unloaded_spec(config: ServeConfig, *, gguf_file: str | None = None) -> DeploySpec:
    """Version 1 of `triage`, for what never reads its weights or its signature."""
    return DeploySpec(
        name="triage",
        version=1,
        directory=Path("nowhere"),
        envelope={},
        public_keys=("one",),
        config=config,
        gguf_file=gguf_file,
    )


@pytest.fixture(scope="module")  # not longer: its engines hold CPUs that other tests of the cluster need
def served(
    ray_session: None,  # noqa: ARG001 - a fixture cannot be marked with usefixtures
    service: RunningService,
    model_directory: Path,
    gguf_directory: Path,
    keys: KeyRing,
) -> Iterator[Endpoint]:
    """Both engines behind the gateway: models `triage` (vLLM) and `triage-q8` (llama.cpp)."""
    from ray import serve

    from raymill.serve.gateway.build import build_gateway
    from raymill.serve.llm.build import build_engine

    exact = ServeConfig(dtype="float32", cpu_kv_cache_gib=0.1)
    small = ServeConfig(engine="llama_cpp", quantization="Q8_0", cpu_threads=1)
    specs = [
        signed_spec(model_directory, keys, name="triage", config=exact),
        signed_spec(gguf_directory, keys, name="triage-q8", config=small, gguf_file="model-Q8_0.gguf"),
    ]
    for spec in specs:
        serve.run(build_engine(spec), name=application(spec), route_prefix=None)
    versions = [
        Served(name=spec.name, version=1, application=application(spec), aliases=("production",))
        for spec in specs
    ]
    snapshot = Snapshot.of(
        {digest_of(KEY): Caller(account="ada", key_id=uuid.UUID(int=1), account_id=uuid.UUID(int=2))},
        versions,
    )
    # In place of the service's own gateway; the reconciler brings that back once this one is gone.
    serve.run(build_gateway(lambda: StaticSource(snapshot)), name="gateway", route_prefix="/v1")
    yield Endpoint(f"{service.url}/v1", KEY)
    for spec in specs:
        serve.delete(application(spec))
    # Not waited for: the reconciler brings the service's own back as soon as this one goes, under the same name.
    serve.delete("gateway", _blocking=False)


def application(spec: DeploySpec) -> str:
    """Not the name that the reconciler looks for, or it would end what no registry row asks for."""
    return f"tests-{spec.name}"
