"""The Python client of Raymill.

    from raymill.client.sdk import Raymill

    with Raymill() as client:
        pipeline = client.pipelines.create(load_recipe(Path("recipe.yaml")).resolved())
        for event in client.pipelines.events(pipeline.id):
            print(event.kind, event.data)
        print(client.pipelines.wait(pipeline.id).state)

`AsyncRaymill` has the same methods for asyncio. It is `raymill.client.sdk` and not `raymill.client`,
because the folders of the repository's top level are namespace packages: none has an `__init__.py`.
Results are the types of `raymill.client.types`, errors those of `raymill.client.errors`.
"""

from raymill.client.aio import AsyncRaymill
from raymill.client.retry import Retry
from raymill.client.sync import Raymill

__all__ = ["AsyncRaymill", "Raymill", "Retry"]
