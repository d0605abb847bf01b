"""The durable job engine's memory: every change of a job's state is one function here.

    queued ──claim──> running ──succeed, complete──> succeeded
     ^  ^               │ ├──fail──────────────────> failed      (the input is wrong: no retry helps)
     │  └─fail, lose,───┤ ├──fail, lose────────────> dead        (out of tries, or poisonous)
     │    give_back     │ ├──end_cancel────────────> cancelled
     │                  └─end_pause─> paused
     └──resume, redrive──────────────── from paused; from failed, dead, cancelled

A claim raises `epoch`; every later write asks for that epoch, so a worker whose lease ran out cannot finish
a job that someone else now owns (a fencing token, Kleppmann 2016). Each function works in the caller's
transaction; what it changes, and what it tells of, commit together.

    model    what the functions take and give        claims   enqueue, claim, beat, complete: one statement each
    submit   pipelines, addresses                    ends     how attempts end, and what follows
    events   what jobs say                           control  what people ask: cancel, pause, redrive
    stats    counts and times of queues              history  moving finished jobs out of the way
    bounds   quotas and accelerators, in claims      waiting  why a job waits
"""

from raymill.registry.jobs.claims import (
    Connection,
    Floors,
    beat,
    claim,
    complete,
    complete_and_claim,
    enqueue,
    queues,
    raw,
    unheard,
)
from raymill.registry.jobs.control import (
    cancel_job,
    cancel_pipeline,
    pause_job,
    pause_pipeline,
    pause_queue,
    redrive,
    redrive_matching,
    resume_job,
    resume_pipeline,
    resume_queue,
    retry_pipeline,
    set_queue,
)
from raymill.registry.jobs.ends import (
    LONG_AGO,
    RETRIES,
    SWEEP_LIMIT,
    end_cancel,
    end_pause,
    fail,
    give_back,
    lose,
    other_bytes,
    owned,
    succeed,
    sweep,
    touch_worker,
)
from raymill.registry.jobs.events import add_events, notify
from raymill.registry.jobs.model import (
    LEASE_S,
    MAX_LOSSES,
    Beat,
    Claimed,
    Done,
    Effects,
    ErrorClass,
    JobSpec,
    LeaseLost,
    Needs,
    Priority,
    StepSpec,
)
from raymill.registry.jobs.submit import create_pipeline, parent_results, reusable

__all__ = [
    "LEASE_S",
    "LONG_AGO",
    "MAX_LOSSES",
    "RETRIES",
    "SWEEP_LIMIT",
    "Beat",
    "Claimed",
    "Connection",
    "Done",
    "Effects",
    "ErrorClass",
    "Floors",
    "JobSpec",
    "LeaseLost",
    "Needs",
    "Priority",
    "StepSpec",
    "add_events",
    "beat",
    "cancel_job",
    "cancel_pipeline",
    "claim",
    "complete",
    "complete_and_claim",
    "create_pipeline",
    "end_cancel",
    "end_pause",
    "enqueue",
    "fail",
    "give_back",
    "lose",
    "notify",
    "other_bytes",
    "owned",
    "parent_results",
    "pause_job",
    "pause_pipeline",
    "pause_queue",
    "queues",
    "raw",
    "redrive",
    "redrive_matching",
    "resume_job",
    "resume_pipeline",
    "resume_queue",
    "retry_pipeline",
    "reusable",
    "set_queue",
    "succeed",
    "sweep",
    "touch_worker",
    "unheard",
]
