"""The handler of the job kind `evaluate_target`: one target, measured outside a recipe.

    version    the weights, or a GGUF file, by actors, as in a recipe (`jobs.py`)
    remote     an endpoint or the gateway, over HTTP (`endpoint.py`), by a key that lives as long as the job

It may be killed at any moment: every answer lies in `context.work_dir` from the moment it came, and the next attempt asks
for the others alone.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.evaluate.compress_config import COMPRESSED_TYPES
from raymill.evaluate.config import EvaluateConfig, label_of
from raymill.evaluate.endpoint import Asker, Endpoint
from raymill.evaluate.endpoint_tasks import run_on_endpoint
from raymill.evaluate.gateway_access import GatewayAccess
from raymill.evaluate.jobs import measure_files, measure_model, write_samples
from raymill.evaluate.prompts import Row, read_rows
from raymill.evaluate.samples import SampleLog
from raymill.evaluate.target_config import AskConfig, backend_of, remote_of
from raymill.evaluate.tasks import TaskResult, check_files
from raymill.policies.errors import Invalid


class Opened(NamedTuple):
    """A remote target that can be asked."""

    asker: Asker
    costs: GatewayAccess | None
    """None: nobody tells what the endpoint costs."""


def run_evaluate_target(context: JobContext) -> Outcome:
    """Measure a target.

    Raises:
        Invalid: a file of a task is not what it was, or the target cannot do a task.
        As `Asker.ask`, of a remote target.
    """
    started = time.monotonic()
    config = EvaluateConfig.model_validate(context.config["evaluate"])
    dataset = context.config.get("dataset")
    rows = read_rows(context.verified(dataset["artifact"]) / "test.jsonl", config.limit) if dataset else []
    check_files(config.tasks)
    if remote_of(context.config["target"]) is not None:
        result, told = measure_remote(context, config, rows)
        variant = "remote"
    else:
        variant, result = measure_version(context, config, rows)
        told = {"usage": None, "tasks": {}}
    published = context.publish("evaluation", write_samples(context, {variant: result}))
    backends = {label_of(task): backend_of(task) for task in config.tasks}
    return Outcome(
        result={
            "digest": published.digest,
            "artifact": published.name,
            "target": context.config["target"],
            "metrics": result.metrics,
            "details": result.details,
            "samples": {
                task: len({record["index"] for record in records}) for task, records in result.records.items()
            },
            "backends": backends,
            **told,
            "seconds": round(time.monotonic() - started, 3),
        },
        artifacts=(published,),
    )


def measure_version(context: JobContext, config: EvaluateConfig, rows: list[Row]) -> tuple[str, TaskResult]:
    """The variant, as samples and scores name it, and what it scored."""
    from raymill.evaluate.actors import join_ray

    join_ray()
    version: JsonObject = context.config["version"]
    directory = context.verified(version["tokenizer"])
    if not version["file"]:
        variant = version["variant"] if version["variant"] in COMPRESSED_TYPES else "train"
        return variant, measure_model(context, config, rows, context.verified(version["artifact"]))
    kind: str = version["variant"]
    file = context.verified(version["artifact"]) / version["file"]
    return kind, measure_files(context, config, rows, directory, {kind: file})[kind]


def measure_remote(
    context: JobContext, config: EvaluateConfig, rows: Sequence[Row]
) -> tuple[TaskResult, JsonObject]:
    """What it scored; tokens and costs, in all and of each task."""
    found = TaskResult({}, {}, {})
    keys: dict[str, list[str]] = {}
    with open_remote(context, context.config["target"]) as (asker, costs):
        for task in config.tasks:
            context.event("phase", name=label_of(task))
            asked = run_on_endpoint(context, asker, task, rows, config)
            found.add(asked.result)
            keys |= dict.fromkeys(asked.result.metrics, asked.keys)
        return found, told_of(asker, costs, keys)


def told_of(asker: Asker, costs: GatewayAccess | None, keys: Mapping[str, Sequence[str]]) -> JsonObject:
    """`usage` of the whole job, and under `tasks` that of each task; answers that tasks share count with each of them.

    Costs are micro-dollars, null where nobody tells them. That of the job has also what got no answer: failed tries,
    and what a killed attempt had asked.
    """
    by_request: Mapping[str, int] = {}
    if costs is not None:
        by_request = costs.costs(sorted({asker.request_id(key) for each in keys.values() for key in each}))
    tasks = {
        task: {
            **asker.usage(its)._asdict(),
            "cost_micro_usd": None
            if costs is None
            else sum(by_request.get(asker.request_id(key), 0) for key in its),
        }
        for task, its in keys.items()
    }
    whole = {**asker.usage()._asdict(), "cost_micro_usd": None if costs is None else costs.spent()}
    return {"usage": whole, "tasks": tasks}


@contextlib.contextmanager
def open_remote(context: JobContext, target: str, name: str = "remote") -> Iterator[Opened]:
    """A remote target, with the answers that earlier attempts had from it.

    Args:
        name: of the log of its answers.

    Raises:
        Invalid: the variable that should hold its key is empty.
        Unavailable: the gateway is away.
    """
    remote = remote_of(target)
    assert remote is not None
    config = AskConfig.model_validate(context.config.get("ask", {}))
    log = SampleLog(context.work_dir / "samples" / f"{name}-replies.jsonl")
    if log.records:
        context.event("log", text=f"{len(log.records)} answers are there from an earlier attempt")

    def asker(endpoint: Endpoint) -> Asker:
        return Asker(
            endpoint,
            config,
            log,
            job_id=context.job_id,
            check=context.check,
            progress=lambda label, done, total: context.event(
                "progress", done=done, total=total, what="answers", task=label
            ),
        )

    if remote.url is not None:
        key = key_of(context.config.get("key_env"))
        yield Opened(asker(Endpoint(url=remote.url, model=remote.model, key=lambda: key)), None)
        return
    url = gateway_url()
    with GatewayAccess(context.database, uuid.UUID(context.job_id), url) as access:
        endpoint = Endpoint(url=url, model=remote.model, key=access.key, idempotent=True)
        yield Opened(asker(endpoint), access)


def key_of(variable: str | None) -> str | None:
    """Raises Invalid: the service's environment does not have it."""
    if variable is None:
        return None
    found = os.environ.get(variable, "").strip()
    if not found:
        raise Invalid(
            f"the service's environment has no {variable}: export it before `raymill up`, or add the endpoint as a "
            "provider, whose key is kept sealed, and measure gateway:PROVIDER/MODEL",
            param="key_env",
        )
    return found


def gateway_url() -> str:
    """Raises NotFound: no service runs here."""
    from raymill.cluster.service import read_service
    from raymill.cluster.settings import Settings

    return f"{read_service(Settings()).url}/v1"
