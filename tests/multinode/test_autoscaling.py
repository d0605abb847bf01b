"""A cluster that adds nodes on demand has the GPUs that waiting jobs ask for, and no more."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from tests.multinode.machines import SCRATCH, SHARED, Site, why_not

from raymill.cluster.ray_head import NODE_ENVIRONMENT

pytestmark = [pytest.mark.slow, pytest.mark.multinode, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]


# Nodes of Ray's provider for its own tests are processes on the head's machine.
LISTS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
    "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip
NODE = {"CPU": 1, "GPU": 1, "accelerator_type:L4": 1, "object_store_memory": 100 << 20}
CONFIG = {
    "cluster_name": "tests",
    "max_workers": 3,
    "provider": {"type": "fake_multinode", "use_node_id_as_ip": True},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "l4": {"resources": NODE, "node_config": {}, "min_workers": 0, "max_workers": 3},
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.1,
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{name: [] for name in LISTS},
    "file_mounts_sync_continuously": False,
}
COMMAND = f"""
set -e
cd {shlex.quote(str(ROOT))}
ray start --head --num-cpus=0 --object-store-memory=100000000 --autoscaling-config={SHARED}/cluster.json --disable-usage-stats
python -m tests.multinode.autoscaling_drill {SHARED}/stages.json
"""


def test_nodes_come_for_what_is_asked_and_go_when_it_is_not(tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    (tmp_path / "cluster.json").write_text(json.dumps(CONFIG))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": SCRATCH,
        "RAY_TMPDIR": SCRATCH,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        **NODE_ENVIRONMENT,
    }
    with Site(tmp_path) as site:
        status = site.add().run(COMMAND, environment, tmp_path / "log")
    assert status == 0, (tmp_path / "log").read_text()[-5000:]
    stages = json.loads((tmp_path / "stages.json").read_text())
    assert stages == [{"any": 0}, {"any": 2, "L4": 2}, {"any": 1, "L4": 1}, {"any": 0}]
