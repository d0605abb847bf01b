"""From a spec to a starting application, and from a failed one to its reason."""

from __future__ import annotations

import re
from typing import assert_never

from ray import serve
from ray.serve import Application, RunTarget
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview

from raymill.policies.errors import Invalid
from raymill.serve.llm.llama_cpp_engine import build_llama_cpp
from raymill.serve.llm.spec import DeploySpec
from raymill.serve.llm.vllm_engine import build_vllm

RAISED = re.compile(r"^(?:\w+\.)*(\w+): (.+)$", re.MULTILINE)


def build_engine(spec: DeploySpec) -> Application:
    """The application for whichever engine `spec` asks for. Imports no engine here, only in the replica."""
    engine = spec.config.engine
    if engine == "vllm":
        return build_vllm(spec)
    if engine == "llama_cpp":
        return build_llama_cpp(spec)
    assert_never(engine)


def deploy(spec: DeploySpec) -> None:
    """Have Serve start the application of `spec`, or bring one that runs to what it says. Not waited for. It has no HTTP
    route: the gateway calls it by a handle.

    Raises:
        Invalid: Serve refuses it.
    """
    target = RunTarget(target=build_engine(spec), name=spec.application, route_prefix=None)
    try:
        serve.run_many([target], wait_for_applications_running=False)
    except RayServeException as error:
        raise Invalid(f"Ray Serve refuses {spec.application}: {error}") from error


def reason_of(status_message: str) -> str:
    """The one line that matters in what Serve says of a failed deployment, which holds a whole traceback.

    The last exception of the traceback is the one that the replica raised; without any, the text itself.
    """
    raised = RAISED.findall(status_message)
    return raised[-1][1].strip() if raised else " ".join(status_message.split())


def reason_of_application(application: ApplicationStatusOverview) -> str:
    """Why an application failed, at most 1000 characters."""
    texts = [application.message, *(each.message for each in application.deployments.values())]
    return reason_of("\n".join(texts))[:1000] or "no reason given"
