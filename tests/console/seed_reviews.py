"""One submission to code analysis, taken through all of its steps with the provider's reviewer. Comes first, for it runs
every short job that is there."""

from __future__ import annotations

from tests.console.provider import REVIEWER
from tests.registry.making import ADA, World
from tests.serve.code_lab import STEPS, WEAK
from tests.serve.dataset_lab import run_all

from raymill.client.code_types import SubmissionRequest
from raymill.registry import code, code_steps, identity
from raymill.serve.code.asking import CONNECTIONS
from raymill.serve.code.intake import checked
from raymill.serve.code.step_config import StepConfig


def seed(world: World, _: str) -> dict[str, str]:
    with world.database.transaction() as session:
        for step in STEPS.values():
            code_steps.put(session, step, StepConfig(model=REVIEWER).model_dump(mode="json"), ADA)
        account = identity.find_account(session, ADA.name)
        row = code.submit(session, checked(SubmissionRequest(code=WEAK), 100_000), account, ADA)
        submitted = str(row.id)
    run_all(world)
    CONNECTIONS.close()
    return {"review": f"/reviews?id={submitted}"}
