"""What a serving configuration may say, and what is read out of Serve's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.serve.conftest import unloaded_spec

from raymill.policies.errors import Invalid
from raymill.serve.llm.build import reason_of
from raymill.serve.llm.config import AutoscaleConfig, ServeConfig
from raymill.serve.llm.rollout import code_version
from raymill.serve.llm.spec import DeploySpec
from raymill.serve.reconciler import unwanted_since


def test_llama_cpp_needs_a_file_and_vllm_takes_none() -> None:
    with pytest.raises(ValidationError, match="say which, such as quantization: Q8_0"):
        ServeConfig(engine="llama_cpp")
    with pytest.raises(ValidationError, match="use engine llama_cpp"):
        ServeConfig(engine="vllm", quantization="Q8_0")


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="replica_count"):
        ServeConfig.model_validate({"replica_count": 2})


def test_a_spec_without_a_key_to_verify_by_is_refused() -> None:
    with pytest.raises(Invalid, match="no public key"):
        DeploySpec(
            name="triage",
            version=1,
            artifact="model/triage/000000000001",
            directory=Path("nowhere"),
            envelope={},
            public_keys=(),
            config=ServeConfig(),
        )


def test_replicas_are_a_number_or_follow_the_requests() -> None:
    with pytest.raises(ValidationError, match="replicas 2 is a fixed number and autoscale is not"):
        ServeConfig(replicas=2, autoscale=AutoscaleConfig(max_replicas=3))
    with pytest.raises(ValidationError, match="min_replicas 4 is above max_replicas 3: swap them"):
        AutoscaleConfig(min_replicas=4, max_replicas=3)
    assert ServeConfig().wake_s is None
    assert ServeConfig(autoscale=AutoscaleConfig(max_replicas=2)).wake_s is None
    assert ServeConfig(autoscale=AutoscaleConfig(min_replicas=0, max_replicas=2, wake_s=9)).wake_s == 9


def test_gpus_are_cut_into_stages_and_asked_of_one_machine() -> None:
    config = ServeConfig(gpus=8, pipeline_parallel=2)
    assert (config.tensor_parallel, ServeConfig().tensor_parallel) == (4, 1)
    assert config.missing_on(8) is None
    assert "gpus 8: a replica needs so many, and this machine has 4" in str(config.missing_on(4))
    with pytest.raises(ValidationError, match="gpus 3 cannot be split into 2 stages"):
        ServeConfig(gpus=3, pipeline_parallel=2)
    with pytest.raises(ValidationError, match="gpus 0 cannot be split into 2 stages"):
        ServeConfig(pipeline_parallel=2)
    with pytest.raises(ValidationError, match="pipeline_parallel is vllm's"):
        ServeConfig(engine="llama_cpp", quantization="Q8_0", gpus=2, pipeline_parallel=2)


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({"config": ServeConfig(replicas=3)}, False),
        ({"config": ServeConfig(autoscale=AutoscaleConfig(min_replicas=0, max_replicas=2))}, False),
        ({"config": ServeConfig(drain_s=5, surge_percent=50)}, False),
        ({"config": ServeConfig(routing="balanced")}, False),
        ({"envelope": {"signed": "again"}}, False),
        ({"config": ServeConfig(max_model_len=64)}, True),
        ({"public_keys": ("one", "another")}, True),
        ({"revoked": {"key": "lost"}}, True),
        ({"attempt": "2"}, True),
    ],
)
def test_replicas_are_replaced_where_what_they_were_started_with_has_changed(
    change: dict[str, Any], restarts: bool
) -> None:
    spec = unloaded_spec(ServeConfig())
    assert (code_version(replace(spec, **change)) != code_version(spec)) == restarts


def test_an_application_lingers_from_when_nobody_wants_it() -> None:
    since = unwanted_since({}, ["llm-a-1", "llm-b-1"], now=1.0)
    since = unwanted_since(since, ["llm-a-1"], now=2.0)  # b is wanted again
    assert unwanted_since(since, ["llm-a-1", "llm-b-1"], now=3.0) == {"llm-a-1": 1.0, "llm-b-1": 3.0}


def test_the_reason_of_a_failed_deployment_is_its_last_exception() -> None:
    said = (
        "Deployment 'engine' failed to start 1 times in a row. See logs for details.\n"
        "Traceback (most recent call last):\n"
        '  File "x.py", line 3, in f\n'
        "ValueError: first\n\n"
        "The above exception was the direct cause of the following exception:\n"
        '  File "x.py", line 5, in g\n'
        "raymill.registry.artifacts.Tampered: model.safetensors: changed, restore it\n"
    )
    assert reason_of(said) == "model.safetensors: changed, restore it"
    assert reason_of("no\n traceback") == "no traceback"
