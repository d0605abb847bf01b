"""Where experiments meet the steps: before a question is asked, and before a step reads what it works on.

Each process looks once a second which experiments there are. Under RAYMILL_PRODUCTION it does not look.
"""

from __future__ import annotations

import random
import threading
import time

from raymill.cluster.context import JobContext
from raymill.cluster.settings import Settings
from raymill.policies.errors import Unavailable
from raymill.registry import code_experiments
from raymill.registry.tables import CodeExperiment

LOOK_EVERY_S = 1.0

STATUS = {"provider_outage": 503, "rate_limits": 429}
"""What a provider would answer."""


class Faults:
    """The experiments of the last look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: list[CodeExperiment] = []
        self._until = 0.0
        self._production: bool | None = None

    def before_step(self, context: JobContext) -> None:
        """Raises Unavailable: the database is away, by experiment."""
        for each in self._met(context):
            if each.fault == "database_away":
                raise Unavailable(f"the database is away (experiment {each.id}): it is tried again")

    def before_question(self, context: JobContext) -> str | None:
        """Waits, where answers are slow; why the model does not answer, where it does not."""
        refusal = None
        for each in self._met(context):
            if each.fault == "slow_answers":
                time.sleep(each.delay_s)
            elif each.fault in STATUS:
                refusal = f"{STATUS[each.fault]}, by experiment {each.id}"
        return refusal

    def forget(self) -> None:
        """Look again at the next question."""
        with self._lock:
            self._until, self._production = 0.0, None

    def _met(self, context: JobContext) -> list[CodeExperiment]:
        with self._lock:
            if self._production is None:
                self._production = Settings().production
            if not self._production and time.monotonic() >= self._until:
                self._known = context.database.patiently(code_experiments.running)
                self._until = time.monotonic() + LOOK_EVERY_S
            known = [] if self._production else self._known
        return [each for each in known if random.random() < each.share]


FAULTS = Faults()
