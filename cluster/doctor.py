"""`raymill doctor`: look for what is wrong with this machine or the service. Changes nothing.

Every finding names its cure. Exit 1 when a check fails; a warning does not fail.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
from packaging.requirements import Requirement
from sqlalchemy.exc import SQLAlchemyError

from raymill.cluster.artifact_checks import check_artifacts
from raymill.cluster.backup import manifest as backups
from raymill.cluster.checks import Check, State
from raymill.cluster.joining import cluster_token
from raymill.cluster.listeners import Listener, in_container, listeners
from raymill.cluster.port_checks import check_ports, judge_port, table
from raymill.cluster.ray_head import DIRECT
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.cluster.supervisor import leftovers
from raymill.cluster.tls_checks import check_tls
from raymill.policies.errors import NotFound, RaymillError
from raymill.registry.database import known_revisions

LOW_DISK_BYTES = 5 << 30
TIMEOUT_S = 10.0


def examine(settings: Settings, found: list[Listener]) -> list[Check]:
    """Every check, in the order in which a cure of one may cure the next.

    Args:
        found: where the service listens.
    """
    running = _is_running(settings)
    checks: list[Callable[[], Iterator[Check]]] = [
        check_versions,
        lambda: check_home(settings),
        lambda: check_keys(settings),
        lambda: check_disk(settings),
        lambda: check_artifacts(settings),
        lambda: check_backups(settings),
        lambda: check_postgres(settings, running=running),
        lambda: check_ray(settings, running=running),
        lambda: check_ports(settings, found),
        lambda: check_tls(settings, running=running),
        check_tools,
        check_gpu,
    ]
    return [each for check in checks for each in check()]


def check_versions() -> Iterator[Check]:
    """Python, and every package that ours asks for."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    wrong = []
    for text in importlib.metadata.requires("raymill") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} is {version}, {wanted.specifier} is needed")
    if wrong:
        yield Check("packages", "fail", "; ".join(wrong), "install raymill again with its constraints file")
    else:
        yield Check(
            "packages",
            "ok",
            f"raymill {importlib.metadata.version('raymill')}, ray "
            f"{importlib.metadata.version('ray')}, torch {importlib.metadata.version('torch')}",
        )


def check_home(settings: Settings) -> Iterator[Check]:
    """The folder of all state can be written, and others cannot write to it."""
    home = settings.home
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield Check("home", "fail", f"{nearest} cannot be written", "run as its owner, or set RAYMILL_HOME")
    elif not home.exists():
        yield Check("home", "ok", f"{home} will be made by `raymill up`")
    elif home.stat().st_mode & 0o022:
        mode = home.stat().st_mode & 0o777
        yield Check(
            "home", "fail", f"{home} has mode {mode:04o}: others may write to it", f"chmod go-w {home}"
        )
    else:
        yield Check("home", "ok", f"{home} can be written by its owner alone")


def check_keys(settings: Settings) -> Iterator[Check]:
    """No secret can be read by others; public halves of keys may."""
    files = [path for path in settings.keys_dir.rglob("*") if path.is_file() and path.suffix != ".pub"]
    secrets = [path for path in files if path.stat().st_size > 0]
    embedded = settings.embedded_postgres
    if embedded is not None and embedded.password_file.exists():
        secrets.append(embedded.password_file)
    exposed = sorted(path for path in secrets if path.stat().st_mode & 0o077)
    for path in exposed:
        mode = path.stat().st_mode & 0o777
        yield Check(
            "keys",
            "fail",
            f"{path} has mode {mode:04o}: others may read it",
            f"chmod 600 {path}, then rotate it",
        )
    if not exposed:
        yield Check("keys", "ok", f"{len(secrets)} secret files, readable by their owner alone")


def check_disk(settings: Settings) -> Iterator[Check]:
    """Room for artifacts and checkpoints."""
    nearest = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    found = f"{free / (1 << 30):.1f} GiB free for {settings.home}"
    low = free < LOW_DISK_BYTES
    yield Check("disk", "warn" if low else "ok", found, "make room, or set RAYMILL_HOME" if low else "")


def check_backups(settings: Settings) -> Iterator[Check]:
    """There is one, it was restored and found equal, and it does not lie on the disk that it is a copy of."""
    if not (settings.home / "postgres").exists() and settings.database_url is None:
        return
    there = backups.kept(settings.backups_dir)
    proven = [backup for backup in there if backup.proof is not None]
    if not proven:
        found = (
            f"none of the {len(there)} in {settings.backups_dir} was restored" if there else "there is none"
        )
        yield Check("backups", "warn", found, f"`raymill backup {'prove' if there else 'create'}`")
    elif settings.backups_dir.stat().st_dev == settings.home.stat().st_dev:
        found = f"{proven[-1].path} was proven, but lies on the disk of {settings.home}"
        yield Check("backups", "warn", found, "set RAYMILL_BACKUP_DIR to another machine's disk")
    else:
        yield Check("backups", "ok", f"{len(proven)} proven, the newest as of {proven[-1].manifest.moment}")


def check_postgres(settings: Settings, *, running: bool) -> Iterator[Check]:
    """The database answers, and its schema is of this release."""
    embedded = settings.embedded_postgres
    if embedded is not None and not embedded.is_running():
        state: State = "fail" if running else "ok"
        yield Check("postgres", state, "the embedded server is not running", "`raymill up` starts it")
        return
    try:
        database = settings.open_database(pool_size=1)
        current, newest = database.revisions()
        with database.engine.connect() as connection:
            version = connection.exec_driver_sql("SHOW server_version").scalar_one()
        database.close()
    except (SQLAlchemyError, RaymillError) as error:
        said = str(getattr(error, "orig", error)).strip().splitlines()[0]
        yield Check("postgres", "fail", said, "see that it runs and that DATABASE_URL is right")
        return
    if current != newest:
        found = f"the schema is at {current or 'nothing'}, this release needs {newest}"
        newer = current is not None and current not in known_revisions()
        cure = "run the release that made it" if newer else "`raymill up` migrates it"
        yield Check("postgres", "fail", found, cure)
    else:
        yield Check("postgres", "ok", f"{version}, schema {current}")


def check_ray(settings: Settings, *, running: bool) -> Iterator[Check]:
    """The cluster answers who knows its token."""
    if not running:
        yield Check("ray", "ok", "no service runs under this home", "`raymill up` starts one")
        return
    service = read_service(settings)
    headers = _authorization(settings)
    request = urllib.request.Request(f"{service.dashboard_url}/api/version", headers=headers)
    try:
        with DIRECT.open(request, timeout=TIMEOUT_S) as answer:
            version = json.load(answer).get("ray_version", "?")
    except (urllib.error.URLError, OSError, ValueError) as error:
        found = f"{service.dashboard_url} does not answer: {error}"
        yield Check(
            "ray",
            "fail",
            found,
            f"read {settings.logs_dir / 'ray.log'}, then `raymill down` and `raymill up`",
        )
        return
    yield Check("ray", "ok", f"{version} at {service.ray_address}")


def _authorization(settings: Settings) -> dict[str, str]:
    with suppress(RaymillError, OSError):
        own = settings.keys_dir / "ray.token"
        token = own.read_text().strip() if settings.address is None else cluster_token(os.environ)
        return {"Authorization": f"Bearer {token}"}
    return {}


def listening(settings: Settings) -> list[Listener]:
    """Where the service's processes listen, whoever can reach it."""
    return listeners(_processes(settings))


def check_tools() -> Iterator[Check]:
    """What training and quantization need beside the packages. Named by text: imports point one way."""
    try:
        script = importlib.import_module("raymill.evaluate.fetch_converter").converter_script()
        yield Check("converter", "ok", str(script))
    except RaymillError as error:
        yield Check("converter", "warn", str(error), "`python -m raymill.evaluate.fetch_converter`")
    if importlib.import_module("raymill.train.prewarm").stamp().is_file():
        yield Check("deepspeed", "ok", "its operation for CPUs is compiled")
    else:
        found = "its operation for CPUs is not compiled: the first training run waits a minute for it"
        yield Check("deepspeed", "warn", found, "`python -m raymill.train.prewarm`")


def check_gpu() -> Iterator[Check]:
    """NVIDIA's own tool says what there is."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Check("gpu", "ok", "none: training and serving use the CPU")
        return
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        said, works = (done.stdout or done.stderr).strip(), done.returncode == 0
    except subprocess.TimeoutExpired:
        said, works = f"nvidia-smi did not answer for {TIMEOUT_S:.0f} s", False
    found = "; ".join(said.splitlines())
    yield Check("gpu", "ok" if works else "fail", found, "" if works else "see that the driver is loaded")


def _is_running(settings: Settings) -> bool:
    with suppress(NotFound):
        service = read_service(settings)
        return service.is_here and psutil.pid_exists(service.supervisor_pid)
    return False


def _processes(settings: Settings) -> list[psutil.Process]:
    found = leftovers(settings)
    embedded = settings.embedded_postgres
    pid = embedded.pid() if embedded is not None else None
    if pid is not None:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="raymill doctor", description="Look for what is wrong.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    as_json = parser.parse_args().json
    try:
        settings = Settings()
        found = listening(settings)
        checks = examine(settings, found)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    failed = any(check.state == "fail" for check in checks)
    if as_json:
        document = {
            "ok": not failed,
            "checks": [check._asdict() for check in checks],
            "in_container": in_container(),
            "listeners": [{**each._asdict(), "state": judge_port(settings, each).state} for each in found],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        for check in checks:
            cure = f" -> {check.cure}" if check.cure and check.state != "ok" else ""
            sys.stdout.write(f"{check.state:<5}{check.name:<12} {check.found}{cure}\n")
        sys.stdout.write(table(settings, found))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
