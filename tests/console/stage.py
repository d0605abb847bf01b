"""A small service for the console's tests: the control plane and the gateway on a Postgres of their own, with something of
everything in it.

    python -m tests.console.stage                      stays, and tells where it is and who may sign in
    python -m tests.console.stage -- COMMAND …         runs the command beside it, and ends with its status

No engine runs here: jobs stand as `seed` left them, models are a scripted provider's, and single sign-on is at an identity provider
that takes everybody for one person, whose account is `olga`. What the tests make happen (a
step of a run, a job, a restart) they ask for at CONSOLE_STAGE_URL. Beside the full service stand an empty one, and one whose
jobs are worked off once the tests ask for that.
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
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

# Ray's library must be loaded before regopy's, or `ray.init` aborts (see cluster/driver.py).
import ray  # noqa: F401
import uvicorn
from pydantic import SecretStr
from sqlalchemy import create_engine, make_url, text
from starlette.types import ASGIApp
from tests.console import seed
from tests.console.gateway import ingesting, with_gateway
from tests.console.provider import provider
from tests.console.working import Working, training_files
from tests.registry.making import ADA, World
from tests.serve.listening import listening
from tests.serve.oidc_provider import CLIENT, SECRET, OidcProvider
from tests.throwaway import ThrowawayPostgres

from raymill.cluster.settings import Settings
from raymill.registry import identity, oidc, passwords
from raymill.registry.database import Database
from raymill.registry.postgres import NAME as POSTGRES
from raymill.registry.tables import JsonObject, Role
from raymill.serve.api.app import create_app
from raymill.serve.api.context import Parts

PASSWORD = "correct horse battery"
ACCOUNTS = {"ada": Role.ADMIN, "ann": Role.APPROVER, "olga": Role.OPERATOR, "vi": Role.VIEWER}


class Place:
    """A service on a port of its own, which can be gone for a while. Each start makes its application anew."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        config = uvicorn.Config(
            self._make(), port=self._port, log_level="warning", timeout_graceful_shutdown=1, access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


class Ground(NamedTuple):
    """What a service stands on."""

    settings: Settings
    database: Database

    def with_sso(self, provider: OidcProvider) -> Ground:
        """The same with an identity provider, whose person is `olga` here."""
        given = {
            "oidc_issuer": provider.issuer,
            "oidc_client_id": CLIENT,
            "oidc_client_secret": SecretStr(SECRET),
        }
        with self.database.transaction() as session:
            olga = identity.find_account(session, "olga")
            oidc.link(session, olga, provider.issuer, provider.person, ADA)
        return self._replace(settings=self.settings.model_copy(update=given))

    def control(self) -> ASGIApp:
        return create_app(Parts(settings=self.settings, database=self.database))

    def whole(self) -> ASGIApp:
        control = create_app(Parts(settings=self.settings, database=self.database))
        return with_gateway(control, self.settings, self.database)


def ground(server: ThrowawayPostgres, home: Path, name: str) -> Ground:
    """A home and a registry with accounts and nothing else; the server's own database has the schema to copy."""
    admin = create_engine(make_url(server.url()).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE console_{name} TEMPLATE {POSTGRES} STRATEGY file_copy"))
        url = admin.url.set(database=f"console_{name}").render_as_string(hide_password=False)
    admin.dispose()
    database = Database(url)
    settings = Settings(home=home / name, database_url=SecretStr(url))
    settings.home.mkdir()
    settings.secret_box.create_if_missing()
    with database.transaction() as session:
        for account, role in ACCOUNTS.items():
            made = identity.create_account(session, account, role, ADA)
            passwords.set_password(session, made, PASSWORD, ADA)
    return Ground(settings, database)


def control(acts: dict[str, Callable[[], JsonObject]]) -> ThreadingHTTPServer:
    """What the tests may ask for: POST /step and the like; the answer is what became of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            act = acts.get(self.path)
            if act is None:
                self.send_error(404)
                return
            answer = act()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Not a word."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def restarting(place: Place, away_s: float = 2.0) -> Callable[[], JsonObject]:
    def restart() -> JsonObject:
        place.stop()
        time.sleep(away_s)
        place.start()
        return {}

    return restart


def run(home: Path, postgres: ThrowawayPostgres, upstream: str, sso: OidcProvider, command: list[str]) -> int:
    """Set the stage, and stay or run `command` beside it."""
    empty, full, work = (ground(postgres, home, name) for name in ("empty", "full", "work"))
    full = full.with_sso(sso)
    url = full.database.url.render_as_string(hide_password=False)
    # What the gateway's source and the steps of code analysis make of their own is read from here.
    mine = {
        "RAYMILL_HOME": str(full.settings.home),
        "RAYMILL_DATABASE_URL": url,
        "RAYMILL_CODE_GATEWAY_URL": upstream,
    }
    os.environ.update(mine)
    working, world = Working(work.settings), World(full.database, full.settings.home)
    examples = seed.everything(world, upstream) | training_files(home)
    end = ingesting(full.settings)
    places = [Place(full.whole), Place(empty.control), Place(work.control)]
    acts: dict[str, Callable[[], JsonObject]] = {
        "/step": lambda: seed.one_step(world),
        "/job": lambda: seed.one_job(world),
        "/restart": restarting(places[0]),
        "/begin": working.begin,
        "/rest": working.end,
    }
    stage = control(acts)
    told = {
        "CONSOLE_URL": places[0].url,
        "CONSOLE_EMPTY_URL": places[1].url,
        "CONSOLE_WORK_URL": places[2].url,
        "CONSOLE_SSO_URL": sso.issuer,
        "CONSOLE_STAGE_URL": f"http://127.0.0.1:{stage.server_port}",
        "CONSOLE_EXAMPLES": json.dumps(examples),
    }
    try:
        if command:
            return subprocess.run(command, env={**os.environ, **told}, check=False).returncode
        for name, value in told.items():
            sys.stdout.write(f"export {name}='{value}'\n")
        sys.stdout.write(f"sign in at {told['CONSOLE_URL']}/console/ as {', '.join(ACCOUNTS)}: {PASSWORD}\n")
        sys.stdout.flush()
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        working.end()
        for place in places:
            place.stop()
        end()
    return 0


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    home = Path(tempfile.mkdtemp(prefix="raymill-console-"))
    home.chmod(0o755)  # for root Postgres runs as another user, who must get in
    postgres = ThrowawayPostgres(home / "postgres")
    try:
        schema = Database(postgres.ensure_running())
        schema.migrate()
        schema.close()
        sso = OidcProvider()
        with provider() as upstream, listening(sso.app()) as sso.issuer:
            return run(home, postgres, upstream.url, sso, command)
    finally:
        postgres.throw_away()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
