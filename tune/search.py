"""A search from its first trial to its end, on Ray Tune. Called again after its process died, it goes on: trials that
had ended are not run again, those that ran go on from their checkpoints.

Nothing is restored from Ray Tune's own state, which holds no scheduler and writes itself down every few seconds: the
records of the trials (`store.py`) say what was, and searcher and scheduler are told it. See docs/tuning.md.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray

from raymill.cluster.context import JsonObject
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, Unavailable
from raymill.registry.tables import TrialState
from raymill.registry.trials import TrialRecord
from raymill.train.config import TrainConfig
from raymill.train.launch import MOST_CORES, wait_for_machines, wants_gpu
from raymill.tune.config import TuneConfig, Values
from raymill.tune.proposals import proposals
from raymill.tune.recorder import Recorder, Tell
from raymill.tune.schedulers import remind, scheduler_of
from raymill.tune.source import TrialSource
from raymill.tune.store import TrialStore
from raymill.tune.trial import export_trial, run_trial

TRIALS = "trials"
"""Folder in the work directory: checkpoints of trials, one folder for each process that ran the search."""

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Small searches write their state down often, and it is never read.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # All members of a population are made at once, and wait for room if need be.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Search:
    """All that a search is. Fields of functions come from the job that runs it."""

    config: TuneConfig
    train: TrainConfig
    """As `config.measured` gives it."""

    base: Path
    work_dir: Path
    """Holds the rows as ids (`prepare`); trials and the export go there."""

    most_steps: int
    """Of the longest trial."""

    store: TrialStore
    tell: Tell
    check: Callable[[], None]

    @property
    def settings(self) -> JsonObject:
        """What every trial is given."""
        return {
            "train": self.train.model_dump(mode="json"),
            "base": str(self.base),
            "work_dir": str(self.work_dir),
            "every": self.train.checkpoint_every,
            "threads": threads_of(self),
        }


def run_search(search: Search) -> list[TrialRecord]:
    """Run what is left of a search; the records of all its trials, by number.

    Raises:
        Invalid: every trial failed; the message has the first one's reason.
    """
    if not ray.is_initialized():
        ray.init()
    wait_for_machines(search.train, 1, search.tell, search.check)
    recorder = recorder_of(search)
    if any(not record.state.over for record in recorder.records.values()) or (
        len(recorder.records) < search.config.size
    ):
        _run(search, search.config, recorder)
    records = sorted(recorder.records.values(), key=lambda record: record.number)
    if all(record.state is TrialState.FAILED for record in records):
        raise Invalid(f"all {len(records)} trials failed, the first: {records[0].error}")
    return records


def best_of(records: list[TrialRecord]) -> TrialRecord:
    """Of the trials that were trained to their end the one with the smallest metric, the first of equal ones.

    A trial that was the best at every look of its scheduler has never been stopped. Only where all that came to their
    end failed it is the best of those that were stopped.
    """
    told = [r for r in records if r.state is not TrialState.FAILED and r.metric is not None]
    whole = [record for record in told if record.state is TrialState.FINISHED]
    return min(whole or told, key=lambda record: (record.metric, record.number))


def train_to_end(search: Search, number: int) -> TrialRecord:
    """Train one trial, which was stopped, to its end.

    Raises:
        Unavailable: its processes died too often.
    """
    recorder = recorder_of(search)
    record = recorder.records[number]
    if record.state is TrialState.FINISHED:
        return record
    search.tell("phase", name=f"train trial {number} to its end")
    record.state = TrialState.RUNNING
    alone = search.config.model_copy(
        update={"scheduler": "none", "search": "random", "trials": len(recorder.records)}
    )
    _run(search, alone, recorder)
    if record.state is not TrialState.FINISHED:
        raise Unavailable(f"trial {number} was not trained to its end: {record.error or record.state.value}")
    return record


def export(search: Search, record: TrialRecord) -> JsonObject:
    """Write a finished trial's model to the work directory. Returns what its run measured."""
    assert record.checkpoint is not None, "a finished trial has a checkpoint"
    gpus = int(wants_gpu(search.train))
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=search.train.max_failures)(export_trial)
    done: JsonObject = ray.get(
        task.remote(record.config, search.settings, str(search.work_dir / TRIALS / record.checkpoint))
    )
    return done


def recorder_of(search: Search) -> Recorder:
    root = search.work_dir / TRIALS
    root.mkdir(parents=True, exist_ok=True)
    return Recorder(search.store, root, search.config.metric, search.tell, search.check, search.config.size)


def _run(search: Search, config: TuneConfig, recorder: Recorder) -> None:
    from ray import tune

    os.environ.update(QUIET)
    root = search.work_dir / TRIALS
    source = TrialSource(config, recorder, proposals(config), root, concurrent_of(search))
    scheduler = scheduler_of(
        config, most_steps=search.most_steps, grace=config.grace or search.train.checkpoint_every
    )
    remind(scheduler, list(recorder.records.values()), config.metric)
    settings = search.settings

    def trial(config: Values) -> None:
        run_trial(config, settings)

    with warnings.catch_warnings():
        # Ray 2.60 warns of names of its own.
        warnings.simplefilter("ignore")
        tune.run(
            trial,
            name=f"process-{sum(1 for _ in root.iterdir()) + 1}",
            storage_path=str(root),
            search_alg=source,
            scheduler=scheduler,
            callbacks=[recorder],
            resources_per_trial={"cpu": 1, "gpu": int(wants_gpu(search.train))},
            # The one that a row names is still there when the row is behind by one.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=3),
            max_failures=search.train.max_failures,
            # A process takes seconds to import what training needs.
            reuse_actors=True,
            raise_on_failed_trial=False,
            verbose=0,
        )
    recorder.flush()


def concurrent_of(search: Search) -> int:
    """Trials at once: what was asked for, within what the cluster has. Raises Unavailable: GPUs that it lacks."""
    config = search.config
    if config.scheduler == "pbt":
        return config.size  # those without room wait, and take turns
    return min(config.concurrent or config.size, config.size, room_of(search))


def room_of(search: Search) -> int:
    """Trials that the cluster has room for at once. Machines join a cluster while it works: those without room wait."""
    if Settings().address is not None:
        return search.config.size
    there = ray.cluster_resources()
    if wants_gpu(search.train):
        return max(1, int(there.get("GPU", 0)))
    if search.config.concurrent:
        return max(1, int(there.get("CPU", 1)))
    return max(1, cores() // 2) * machines()


def threads_of(search: Search) -> int:
    """An equal share of a machine's cores for each trial."""
    if wants_gpu(search.train):
        return max(1, min(MOST_CORES, cores() // max(1, int(ray.cluster_resources().get("GPU", 0)))))
    running = max(1, min(concurrent_of(search), int(ray.cluster_resources().get("CPU", 1))))
    return max(1, min(MOST_CORES, cores() * machines() // running))


def machines() -> int:
    """Of the cluster, now."""
    return max(1, len([node for node in ray.nodes() if node["Alive"]]))


def cores() -> int:
    return len(os.sched_getaffinity(0))


def summary_of(search: Search, records: list[TrialRecord], best: TrialRecord) -> JsonObject:
    """What a search tells of itself beside its model."""
    states = [record.state for record in records]
    whole = max((record.total_steps for record in records), default=0) * len(records)
    return {
        "metric": search.config.metric,
        "best": {"trial": best.number, "values": best.config, "metric": best.metric},
        "trials": len(records),
        **{state.value: states.count(state) for state in TrialState if state.over},
        "search_steps": sum(record.steps for record in records),
        "whole_steps": whole,
    }
