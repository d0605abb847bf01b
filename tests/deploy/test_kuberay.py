"""The KubeRay manifests: what every pod must have, who reaches what, and the operator's own schemas where they are found.

Those are not ours to keep here: KUBERAY_CRDS names a folder with `ray.io_rayclusters.yaml` and `ray.io_rayservices.yaml`
of the operator that will run it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from raymill.cluster.ray_head import NODE_ENVIRONMENT
from raymill.cluster.settings import Settings
from raymill.serve import faces

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
SECRETS = {
    "database.env": "DATABASE_URL=postgresql://raymill:made-up@raymill-postgres/raymill\nPOSTGRES_PASSWORD=made-up\n",
    "ray-token.env": "auth_token=made-up\n",
}
PART = {"app.kubernetes.io/part-of": "raymill"}


def documents(folder: str = "base") -> list[dict[str, Any]]:
    files = sorted((KUBERAY / folder).glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str, folder: str = "base") -> dict[str, Any]:
    (found,) = (document for document in documents(folder) if document["kind"] == kind)
    return found


def cluster() -> dict[str, Any]:
    spec: dict[str, Any] = of_kind("RayCluster")["spec"]
    return spec


def pods() -> dict[str, dict[str, Any]]:
    """Pod templates by their names."""
    found = {"head": cluster()["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in cluster()["workerGroupSpecs"]}
    return found | {"postgres": of_kind("StatefulSet", "postgres")["spec"]["template"]}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def settings_file() -> dict[str, str]:
    lines = (KUBERAY / "base" / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """As the API server reads it with strict validation: a field that the schema does not name is an error."""
    found = {name: _strict(value) for name, value in schema.items()}
    if "properties" in found and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return strict(value) if "type" in value else {name: _strict(inner) for name, inner in value.items()}
    return [_strict(inner) for inner in value] if isinstance(value, list) else value


def built(tmp_path: Path, overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed, so nothing here builds a kustomization")
    copy = tmp_path / "kuberay"
    shutil.copytree(KUBERAY, copy, dirs_exist_ok=True)
    for name, text in SECRETS.items():
        (copy / "base" / name).write_text(text)
    command = [kubectl, "kustomize", str(copy / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_the_pods_have_the_settings_of_one_service(monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_file()
    for name in [name for name in os.environ if name.startswith("RAYMILL_")]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    fields = {f"RAYMILL_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in given if name.startswith("RAYMILL_")} <= fields
    settings = Settings()
    assert settings.address == "raymill-head-svc:6379"
    assert settings.production
    # A kustomization reads no file outside its folder, so it has the lines of cluster/nodes.env once more.
    assert {name: given.get(name) for name in NODE_ENVIRONMENT} == NODE_ENVIRONMENT
    for name in ("head", "cpu", "gpu"):
        for container in containers(pods()[name]):
            assert {"configMapRef": {"name": "raymill-settings"}} in container["envFrom"]
            assert {"name": "home", "mountPath": str(settings.home)} in container["volumeMounts"]
            assert "DATABASE_URL" in {variable["name"] for variable in container["env"]}


def test_only_the_gateways_port_is_open_to_everybody() -> None:
    port = Settings.model_fields["port"].default
    open_to_all = []
    for document in (*documents(), *documents("postgres")):
        if document["kind"] != "NetworkPolicy":
            continue
        assert document["spec"]["policyTypes"] == ["Ingress"]
        for rule in document["spec"]["ingress"]:
            if "from" not in rule:
                selected = document["spec"]["podSelector"]["matchLabels"]
                open_to_all.append((selected, [each["port"] for each in rule["ports"]]))
            assert all("podSelector" in source for source in rule.get("from", ()))
    head = {**PART, "ray.io/node-type": "head"}
    assert open_to_all == [(head, [port])]
    service = of_kind("Service")["spec"]
    assert service["selector"] == head
    assert [each["targetPort"] for each in service["ports"]] == [port]
    assert "type" not in service  # ClusterIP: what is put before it decides who may come
    for name in ("head", "cpu", "gpu"):
        assert PART.items() <= pods()[name]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", ["head", "cpu", "gpu", "postgres"])
def test_a_pod_is_confined_probed_and_asks_for_what_it_needs(name: str) -> None:
    pod = pods()[name]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert "livenessProbe" in container
        assert re.fullmatch(r"[a-z-]+:\d[\w.]*", container["image"]), container["image"]
        if container["image"].startswith("raymill"):
            version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
            assert container["image"].endswith(f":{version}")


def test_ray_asks_for_a_token_and_no_secret_stands_in_clear() -> None:
    spec = cluster()
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token", "secretName": "raymill-ray-token"}
    for pod in pods().values():
        for variable in (each for container in containers(pod) for each in container["env"]):
            if re.search("URL|TOKEN|PASSWORD|KEY|SECRET", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]
    assert not [name for name in settings_file() if re.search("TOKEN|PASSWORD|SECRET|DATABASE", name)]
    assert "Secret" not in {document["kind"] for document in documents()}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/deploy/kuberay/base/{name}" for name in SECRETS} <= set(ignored)


def test_serve_knows_the_applications_of_the_rayservice() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(of_kind("RayService")["spec"]["serveConfigV2"]))
    assert config.http_options.port == Settings.model_fields["port"].default
    for application in config.applications:
        module, name = application.import_path.split(":")
        assert module == faces.__name__
        assert isinstance(getattr(faces, name), Application)
    assert {each.name: each.route_prefix for each in config.applications} == {"api": "/", "gateway": "/v1"}


@pytest.mark.parametrize(("overlay", "kind"), [("cluster", "RayCluster"), ("service", "RayService")])
def test_kustomize_builds_one_of_both(tmp_path: Path, overlay: str, kind: str) -> None:
    found = {document["kind"]: document for document in built(tmp_path, overlay)}
    assert found.keys() & {"RayCluster", "RayService"} == {kind}
    assert {document["metadata"].get("namespace", "raymill") for document in found.values()} == {"raymill"}
    spec = found[kind]["spec"].get("rayClusterConfig", found[kind]["spec"])
    supervisor = spec["headGroupSpec"]["template"]["spec"]["initContainers"][0]
    probe = supervisor.pop("readinessProbe", None)
    assert spec == cluster()
    assert (probe is not None) is (kind == "RayCluster")


def crds() -> Iterator[tuple[str, dict[str, Any]]]:
    folder = os.environ.get("KUBERAY_CRDS")
    if folder is None:
        pytest.skip(
            "KUBERAY_CRDS names no folder with the operator's CRDs (ray.io_rayclusters.yaml and so on)"
        )
    for plural in ("rayclusters", "rayservices"):
        crd = yaml.safe_load((Path(folder) / f"ray.io_{plural}.yaml").read_text())
        (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1")
        yield crd["spec"]["names"]["kind"], strict(version["schema"]["openAPIV3Schema"])


def test_the_operators_schemas_accept_them(tmp_path: Path) -> None:
    for kind, schema in crds():
        overlay = kind.removeprefix("Ray").lower()
        (resource,) = (each for each in built(tmp_path, overlay) if each["kind"] == kind)
        # Not `jsonschema.validate`, which would first spend half a minute on the schema itself.
        validator = jsonschema.Draft202012Validator(schema)
        validator.validate(resource)
        resource["spec"].get("rayClusterConfig", resource["spec"])["headGroupSpec"]["rayStartParameters"] = {}
        with pytest.raises(jsonschema.ValidationError, match="rayStartParameters"):
            validator.validate(resource)
