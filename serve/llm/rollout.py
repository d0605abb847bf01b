"""How Serve keeps the replicas of a version: how many, what replaces them, how they end.

Serve replaces replicas when the name of their code changes. The name here is made of what a replica was started
with, so deploying a version again, for a second alias or after a canary, leaves its replicas alone, and other numbers
of replicas are no reason to load weights again. Which adapters an engine may answer with, its replicas are told as they
run. Written against ray 2.60, whose public API has no such name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.spec import ENGINE, DeploySpec

IN_PLACE = {"replicas", "autoscale", "drain_s", "surge_percent", "routing"}
"""Settings that are changed under running replicas: by Serve, `routing` by the gateway."""


def application_of(engine: Callable[..., Any], spec: DeploySpec, **options: Any) -> Application:
    """The application of one deployment, `engine`. Has no HTTP route of its own: the gateway calls it.

    Args:
        options: of `serve.deployment`, besides those that are every engine's.
    """
    config = spec.config
    deployment = serve.deployment(
        engine,
        name=ENGINE,
        max_ongoing_requests=config.max_concurrent_requests,
        max_surge_percent=config.surge_percent,
        graceful_shutdown_timeout_s=config.drain_s,
        # A refused signature is refused again on the next try: fail at once, with its message.
        max_constructor_retry_count=1,
        health_check_period_s=10,
        health_check_timeout_s=30,
        user_config=told_of(spec),
        **_how_many(config),
        **options,
    )
    return deployment.options(version=code_version(spec), _internal=True).bind(spec)


def told_of(spec: DeploySpec) -> dict[str, Any] | None:
    """What Serve hands to `reconfigure` of running replicas and of new ones."""
    if spec.shared is None:
        return None
    return {"adapters": [adapter.to_json() for adapter in spec.shared.adapters]}


def code_version(spec: DeploySpec) -> str:
    """The same for specs whose replicas can stand for each other.

    A signature counts by its key, not by itself: promoting the version again under the same keys changes nothing.
    """
    parts = {
        "config": spec.config.model_dump(mode="json", exclude=IN_PLACE),
        # A base lies in the store once for each model that was made of it.
        "directory": str(spec.directory) if spec.shared is None else spec.shared.digest,
        "file": spec.gguf_file,
        "keys": sorted(spec.public_keys),
        "revoked": sorted(spec.revoked),
        "attempt": spec.attempt,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _how_many(config: ServeConfig) -> dict[str, Any]:
    scale = config.autoscale
    if scale is None:
        return {"num_replicas": config.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=scale.min_replicas,
            max_replicas=scale.max_replicas,
            # Where there may be none, one is started nevertheless: a version that cannot be loaded is told at once.
            initial_replicas=max(1, scale.min_replicas),
            target_ongoing_requests=scale.target_ongoing_requests,
            upscale_delay_s=scale.scale_up_delay_s,
            downscale_delay_s=scale.scale_down_delay_s,
            look_back_period_s=LOOK_BACK_S,
        )
    }


LOOK_BACK_S = 15.0
"""Requests at once are averaged over this long; longer than the 10 s at which they are told of."""
