"""The service's supervisor without what answers over HTTP: Ray's head and the job engine, so that jobs run.

RAYMILL_HOME=… RAYMILL_DATABASE_URL=… python -m tests.console.engine        until it is asked to end
"""

from __future__ import annotations

from raymill.cluster import supervisor

if __name__ == "__main__":
    del supervisor.CHILDREN["reconciler"]
    supervisor.main()
