"""Writes the control plane's OpenAPI document, which the console's types are made of, so that a route which changed
fails the console's build: `python -m raymill.serve.console.openapi`. Starts nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from raymill.cluster.settings import Settings
from raymill.registry.database import Database
from raymill.serve.api.app import create_app
from raymill.serve.api.context import Parts

FILE = Path(__file__).resolve().parent / "web" / "openapi.json"


def document() -> str:
    """The document as JSON text, the same for the same routes."""
    with tempfile.TemporaryDirectory() as home:
        parts = Parts(
            settings=Settings(home=Path(home)),
            database=Database("postgresql+psycopg://nobody@127.0.0.1:1/none"),
        )
        told = create_app(parts).openapi()
    for methods in told["paths"].values():
        for operation in methods.values():
            # FastAPI's own shape of this error is never sent: every refusal is a `types.ErrorEnvelope`.
            operation["responses"].pop("422", None)
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    target.write_text(document())


if __name__ == "__main__":
    main()
