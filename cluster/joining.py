"""What a Ray cluster must have before a service runs on it: `raymill up --address`.

    python -m raymill.cluster.joining

It must answer, ask for a token, and every node of it must be started with this service's settings: the same
`RAYMILL_HOME`, a folder that all of them share (checkpoints and keys are read and written where the work runs), the same
Postgres and the same place of artifacts. Nodes that come later are started as these were, and are not looked at.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from raymill.cluster.ray_head import DIRECT, HEAD
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, RaymillError, Unavailable

ANSWER_S = 120.0
"""A cluster that starts together with us has this long to answer."""

LOOK_S = 60.0


class Found(NamedTuple):
    """What one node told."""

    node: str
    """Its address."""

    home: str
    database: str
    """Digest of the URL, which is a secret."""

    joined: bool
    """`RAYMILL_ADDRESS` is set: replicas there let other nodes reach them."""

    seen: str
    """The text of our mark in its home; empty where there is none."""

    artifacts: str = ""
    """`RAYMILL_ARTIFACTS_URL`; empty where it is not set."""

    cache: str = ""
    """Where copies of artifacts lie: a replica is told a path there."""


def require_database(settings: Settings) -> None:
    """Raises Invalid when a cluster is to be joined and Postgres would be this machine's own."""
    if settings.address is not None and settings.database_url is None:
        raise Invalid(
            f"--address {settings.address}: the embedded Postgres is reached by this machine alone: "
            "set DATABASE_URL to one that every node reaches"
        )


def cluster_token(environment: Mapping[str, str]) -> str:
    """The cluster's token, from where Ray itself takes it.

    Raises:
        Unavailable: there is none.
    """
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    given = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip()
    except OSError:
        raise Unavailable(
            f"the cluster's token is not in {path}: copy it there, or set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from None


def check_token(settings: Settings) -> None:
    """Wait until the cluster's dashboard answers. It must take our token, and nobody without one.

    Raises:
        Unavailable: it does not answer, or refuses the token.
        Invalid: it asks for none.
    """
    url = f"{settings.dashboard_url}/api/v0/nodes"
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            status, _ = _answer(url, {})
            break
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{settings.dashboard_url} does not answer ({error}): give the cluster's with --dashboard-url"
                ) from None
            time.sleep(1)
    if status < 400:
        raise Invalid(
            f"the cluster at {settings.address} asks for no token, and who reaches it can run code there: "
            "start every node of it with RAY_AUTH_MODE=token"
        )
    status, _ = _answer(url, {"Authorization": f"Bearer {cluster_token(os.environ)}"})
    if status >= 400:
        raise Unavailable(
            f"the cluster at {settings.address} refuses the token: give the one it was started with"
        )


def complaints(settings: Settings, mark: str, found: Iterable[Found]) -> Iterator[str]:
    """What is wrong with each node, and the cure."""
    database = _digest(settings)
    for node in found:
        start = f"start node {node.node} with the settings of this machine"
        if node.home != str(settings.home):
            yield f"RAYMILL_HOME is {node.home} on node {node.node} and {settings.home} here: {start}"
        elif node.seen != mark:
            yield (
                f"node {node.node} does not see {settings.home} as this machine does, and checkpoints and keys are read "
                "and written where the work runs: mount one shared folder there on every node"
            )
        elif node.database != database:
            yield f"DATABASE_URL of node {node.node} is not that of this machine: {start}"
        elif node.artifacts != (settings.artifacts_url or ""):
            here = settings.artifacts_url or "not set"
            yield f"RAYMILL_ARTIFACTS_URL is {node.artifacts or 'not set'} on node {node.node} and {here} here: {start}"
        elif node.cache != str(settings.cache_dir):
            yield f"RAYMILL_CACHE is {node.cache} on node {node.node} and {settings.cache_dir} here: {start}"
        elif not node.joined:
            yield f"RAYMILL_ADDRESS is not set on node {node.node}, so no other reaches its replicas: {start}"


def check_nodes(settings: Settings) -> None:
    """Have every living node tell what it was started with.

    Raises:
        Invalid: a node has other settings, or does not share the home.
        Unavailable: a node does not tell, or has no raymill.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=settings.address, log_to_driver=False, logging_level="ERROR")
    name, mark = f".joining-{secrets.token_hex(8)}", secrets.token_hex(16)
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / name
    path.write_text(mark)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        refuse_but_on_the_head(ray.get_runtime_context().get_node_id(), nodes)
        asked = [
            ray.remote(num_cpus=0, max_retries=0)(look)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(node["NodeManagerAddress"], name)
            for node in nodes
        ]
        told = []
        for node, reference in zip(nodes, asked, strict=True):
            try:
                told.append(Found(*ray.get(reference, timeout=LOOK_S)))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise Unavailable(
                    f"node {node['NodeManagerAddress']} cannot run Raymill ({reason}): install this release there"
                ) from error
    finally:
        path.unlink(missing_ok=True)
        ray.shutdown()
    for complaint in complaints(settings, mark, told):
        raise Invalid(complaint)


def refuse_but_on_the_head(here: str, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Raises Invalid: users are answered at the head's port, and this machine is another."""
    for node in nodes:
        if HEAD in node["Resources"] and node["NodeID"] != here:
            head = node["NodeManagerAddress"]
            raise Invalid(
                f"this machine is not the cluster's head, where users are answered: run `raymill up` on {head}"
            )


def look(node: str, name: str) -> tuple[str, str, str, bool, str, str, str]:
    """Runs on a node; the fields of `Found`."""
    here = Settings()
    path = here.home / name
    seen = path.read_text() if path.is_file() else ""
    joined, artifacts = here.address is not None, here.artifacts_url or ""
    return node, str(here.home), _digest(here), joined, seen, artifacts, str(here.cache_dir)


def _digest(settings: Settings) -> str:
    if settings.database_url is None:
        return ""
    return hashlib.sha256(settings.database_url.get_secret_value().encode()).hexdigest()


def _answer(url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with DIRECT.open(request, timeout=ANSWER_S) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def main() -> None:
    settings = Settings()
    try:
        check_token(settings)
        check_nodes(settings)
    except RaymillError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
