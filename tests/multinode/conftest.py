"""Fixtures of other rooms' tests."""

from tests.e2e.conftest import data, make_recipe
from tests.evaluate.conftest import f16, tiny_model

__all__ = ["data", "f16", "make_recipe", "tiny_model"]
