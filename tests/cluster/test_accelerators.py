"""Accelerators: how recipes ask for them, what becomes of that, and what the cluster has."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from ray.util.accelerators import accelerators as ray_names

from raymill.cluster.accelerators import count
from raymill.evaluate.config import EvaluateConfig
from raymill.registry.accelerators import Gpus
from raymill.registry.jobs import Needs
from raymill.registry.placement_config import NAMES, Resources, pin
from raymill.serve.api.planning import evaluate_step, training_needs
from raymill.serve.llm.config import ServeConfig
from raymill.train.config import PretrainConfig, TrainConfig

H100 = {"accelerator": "H100", "gpus": 8}


def test_our_names_are_rays() -> None:
    theirs = {value for name, value in vars(ray_names).items() if name[0] != "_" and isinstance(value, str)}
    assert set(NAMES) <= theirs


def test_a_section_gets_its_workers_from_what_it_asks_for_and_back() -> None:
    train = TrainConfig.model_validate({"resources": H100})
    assert (train.workers, train.use_gpu, train.resources) == (8, True, Resources.model_validate(H100))
    assert TrainConfig.model_validate(train.model_dump(mode="json")) == train  # what is kept is read again
    spread = PretrainConfig.model_validate({"text": "t", "workers": 4, "resources": {"accelerator": "L4"}})
    assert spread.resources == Resources(accelerator="L4", gpus=4)
    evaluate = EvaluateConfig.model_validate({"resources": {"accelerator": "L4", "gpus": 2}})
    assert (evaluate.actors, evaluate.gpus_per_actor) == (2, 1)
    assert ServeConfig.model_validate({"resources": {"accelerator": "H200", "gpus": 2}}).gpus == 2


@pytest.mark.parametrize(
    ("section", "given", "told"),
    [
        (TrainConfig, {"resources": {"accelerator": "h-100"}}, "did you mean H100"),
        (TrainConfig, {"resources": H100, "workers": 4}, "workers is 4, resources.gpus 8"),
        (TrainConfig, {"resources": H100, "use_gpu": False}, "use_gpu is false"),
        (TrainConfig, {"resources": H100, "min_workers": 2}, "min_workers starts with fewer"),
        (TrainConfig, {"resources": {"gpus": 0}}, "greater than or equal to 1"),
        (
            EvaluateConfig,
            {"resources": {"gpus": 2}, "actors": 3},
            "resources.gpus is 2, 3 actors of 1 GPUs hold 3",
        ),
        (ServeConfig, {"resources": {"gpus": 2}, "gpus": 1}, "gpus is 1, resources.gpus 2"),
    ],
)
def test_what_does_not_go_together_is_refused(section: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        section.model_validate(given)


def test_a_step_is_planned_with_what_it_holds() -> None:
    asked = TrainConfig.model_validate({"resources": H100})
    assert training_needs(asked, there=0) == Needs(gpus=8, cpus=8, accelerator="H100")
    left_open = TrainConfig(workers=2)
    assert training_needs(left_open, there=1) == Needs(gpus=0, cpus=2)
    assert training_needs(left_open, there=2) == Needs(gpus=2, cpus=2)
    config = EvaluateConfig.model_validate({"actors": 3, "gpus_per_actor": 0.5, "cpus_per_actor": 2})
    assert evaluate_step("evaluate", config, "train", ()).needs == Needs(gpus=2, cpus=6)


def test_gpus_are_counted_by_type_on_living_nodes() -> None:
    def node(name: str, kind: str = "", gpus: float = 0.0, *, alive: bool = True) -> dict[str, Any]:
        of_gpus = {"GPU": gpus, f"accelerator_type:{kind}": 1.0} if gpus else {}
        return {"NodeID": name, "Alive": alive, "Resources": {"CPU": 8.0, **of_gpus}}

    nodes = [
        node("a", "H100", 8.0),
        node("b", "L4", 4.0),
        node("gone", "H100", 8.0, alive=False),
        node("head"),
    ]
    found = count(nodes, {"a": {"GPU": 2.5}, "b": {"CPU": 1.0}})
    assert found == {"any": Gpus(12, 2), "H100": Gpus(8, 2), "L4": Gpus(4, 0)}
    assert count([], {}) == {"any": Gpus(0, 0)}


def test_a_pin_leads_to_nodes_of_a_type_and_any_to_all() -> None:
    assert pin(Resources.model_validate(H100)) == {"accelerator_type:H100": 0.001}
    assert pin(Resources(gpus=2)) == {}
    assert pin(None) == {}
