"""A small service for the console's tests: the control plane on a Postgres of its own, with something of everything in it.

    python -m tests.console.stage                      stays, and tells where it is and who may sign in
    python -m tests.console.stage -- COMMAND …         runs the command beside it, and ends with its status

Nothing computes here: no Ray, no engine; jobs stand as `seed` left them. What the tests make happen (a step of a run,
a restart) they ask for at CONSOLE_STAGE_URL. Beside the full service stands an empty one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Ray's library must be loaded before regopy's, or `ray.init` aborts (see cluster/driver.py).
import ray  # noqa: F401
import uvicorn
from fastapi import FastAPI
from sqlalchemy import create_engine, text
from tests.console import seed
from tests.registry.making import ADA, World
from tests.throwaway import ThrowawayPostgres

from raymill.cluster.settings import Settings
from raymill.registry import identity, passwords
from raymill.registry.database import Database
from raymill.registry.tables import Role
from raymill.serve.api.app import create_app
from raymill.serve.api.context import Parts

PASSWORD = "correct horse battery"
ACCOUNTS = {"ada": Role.ADMIN, "ann": Role.APPROVER, "olga": Role.OPERATOR, "vi": Role.VIEWER}


class Place:
    """A service on a port of its own, which can be gone for a while."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.port = 0
        self.start()

    def start(self) -> None:
        config = uvicorn.Config(
            self._app, port=self.port, log_level="warning", timeout_graceful_shutdown=1, access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def restart(self, away_s: float) -> None:
        self._server.should_exit = True
        self._thread.join()
        time.sleep(away_s)
        self.start()


def place(server: ThrowawayPostgres, home: Path, name: str) -> tuple[Place, World]:
    """A service with accounts and nothing else."""
    admin = create_engine(server.url(), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE console_{name}"))
        url = admin.url.set(database=f"console_{name}").render_as_string(hide_password=False)
    admin.dispose()
    database = Database(url)
    database.migrate()
    settings = Settings(home=home / name)
    settings.home.mkdir()
    settings.secret_box.create_if_missing()
    world = World(database, settings.home)
    with database.transaction() as session:
        for account, role in ACCOUNTS.items():
            made = identity.create_account(session, account, role, ADA)
            passwords.set_password(session, made, PASSWORD, ADA)
    return Place(create_app(Parts(settings=settings, database=database))), world


def control(full: Place, world: World) -> ThreadingHTTPServer:
    """What the tests may ask for: POST /step, POST /restart."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path == "/step":
                answer = seed.one_step(world)
            elif self.path == "/restart":
                full.restart(away_s=2.0)
                answer = {}
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Not a word."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    home = Path(tempfile.mkdtemp(prefix="raymill-console-"))
    home.chmod(0o755)  # for root Postgres runs as another user, who must get in
    postgres = ThrowawayPostgres(home / "postgres")
    try:
        postgres.ensure_running()
        empty, _ = place(postgres, home, "empty")
        full, world = place(postgres, home, "full")
        examples = seed.everything(world)
        stage = control(full, world)
        told = {
            "CONSOLE_URL": f"http://127.0.0.1:{full.port}",
            "CONSOLE_EMPTY_URL": f"http://127.0.0.1:{empty.port}",
            "CONSOLE_STAGE_URL": f"http://127.0.0.1:{stage.server_port}",
            "CONSOLE_EXAMPLES": json.dumps(examples),
        }
        if command:
            return subprocess.run(command, env={**os.environ, **told}, check=False).returncode
        for name, value in told.items():
            sys.stdout.write(f"export {name}='{value}'\n")
        sys.stdout.write(f"sign in at {told['CONSOLE_URL']}/console/ as {', '.join(ACCOUNTS)}: {PASSWORD}\n")
        sys.stdout.flush()
        threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    finally:
        postgres.throw_away()
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
