"""From a spec to a running application, and from a failed one to its reason."""

from __future__ import annotations

import re
from typing import assert_never

from ray.serve import Application
from ray.serve.schema import ApplicationStatusOverview

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
