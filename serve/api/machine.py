"""Whether the cluster has what a recipe's training and serving need, asked when it is submitted."""

from __future__ import annotations

from raymill.client.recipe import Recipe
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid
from raymill.train.compatibility import Machine, missing_on

NOTHING = Machine(gpus=0)


def refuse_what_the_cluster_lacks(recipe: Recipe) -> None:
    """
    Raises:
        Invalid: a setting needs a GPU, and no machine of the cluster has one; or more of them than this machine has.
    """
    # Machines of a cluster that was joined may come when they are asked for; a head of our own is one machine.
    if Settings().address is not None:
        return
    sections = {"train": recipe.train, "base.pretrain": recipe.base.pretrain}
    for param, section in sections.items():
        if section is None or (reason := missing_on(NOTHING, section.model_dump())) is None:
            continue
        if cluster().gpus == 0:
            raise Invalid(f"{param}: {reason}", param=param)
    if recipe.serve is not None and recipe.serve.gpus:
        lacks = recipe.serve.missing_on(cluster().gpus)
        if lacks is not None:
            raise Invalid(f"serve.{lacks}", param="serve.gpus")


def cluster() -> Machine:
    """What this process's cluster has now."""
    import ray

    return Machine(gpus=int(ray.cluster_resources().get("GPU", 0)))
