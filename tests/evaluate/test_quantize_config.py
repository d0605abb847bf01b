from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from raymill.evaluate.quantize_config import BOUNDS, QUANTIZATION_TYPES, QuantizeConfig


def test_a_bare_list_of_quantization_types_is_accepted() -> None:
    config = QuantizeConfig.model_validate(["Q8_0", "Q4_K_M"])
    assert config.types == ("Q8_0", "Q4_K_M")
    assert config.importance is None
    assert config.verify.bounds_of("Q8_0") == BOUNDS["Q8_0"]


def test_an_unknown_quantization_type_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"'Q9_9' is no quantization type: use any of F16, BF16, Q8_0, Q6_K"):
        QuantizeConfig.model_validate({"types": ["Q8_0", "Q9_9"]})


def test_a_type_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="listed twice in Q8_0, Q8_0"):
        QuantizeConfig.model_validate(["Q8_0", "Q8_0"])


def test_every_type_has_bounds_and_a_smaller_type_has_wider_ones() -> None:
    assert tuple(BOUNDS) == QUANTIZATION_TYPES
    means = [BOUNDS[kind].kl_mean or 0 for kind in QUANTIZATION_TYPES]
    assert means == sorted(means)


def test_bounds_of_a_recipe_take_the_place_of_the_usual_ones_one_by_one() -> None:
    given = {"types": ["Q4_K_M"], "verify": {"bounds": {"Q4_K_M": {"kl_mean": 0.5, "same_top": None}}}}
    config = QuantizeConfig.model_validate(given)
    again = QuantizeConfig.model_validate_json(config.model_dump_json())
    bounds = again.verify.bounds_of("Q4_K_M")
    assert again == config
    assert (bounds.kl_mean, bounds.same_top, bounds.kl_p99) == (0.5, None, BOUNDS["Q4_K_M"].kl_p99)


def test_a_bound_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="kl_max"):
        QuantizeConfig.model_validate({"types": ["Q8_0"], "verify": {"bounds": {"Q8_0": {"kl_max": 1}}}})


def test_the_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys, raymill.evaluate.quantize_config\n"
        "heavy = {'torch', 'ray', 'transformers', 'sqlalchemy', 'numpy', 'llama_cpp'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
