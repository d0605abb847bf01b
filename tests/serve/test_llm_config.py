"""What a serving configuration may say, and what is read out of Serve's words."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from raymill.policies.errors import Invalid
from raymill.serve.llm.build import reason_of
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.spec import DeploySpec


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
