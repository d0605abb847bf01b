"""The two applications that people talk to, bound: what the reconciler starts, and what a RayService names.

Nothing is deployed at import.
"""

from __future__ import annotations

from raymill.serve.api.app import build as build_api
from raymill.serve.gateway.build import build_gateway
from raymill.serve.registry_source import RegistrySource

api = build_api()
"""The control plane, below `/`."""

gateway = build_gateway(RegistrySource)
"""The models' address, below `/v1`."""
