"""Manifests as `kubectl apply -k` would send them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
BUILDERS = (("kubectl", "kustomize"), ("kustomize", "build"))

Manifest = dict[str, Any]


def built(folder: Path) -> list[Manifest]:
    """Skips the test where nothing can build them."""
    builder = next((builder for builder in BUILDERS if shutil.which(builder[0])), None)
    if builder is None:
        pytest.skip("neither kubectl nor kustomize is installed; the base is tested as it is listed")
    done = subprocess.run([*builder, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_of(manifests: list[Manifest]) -> Manifest:
    """The one pod's template."""
    (deployment,) = of_kind(manifests, "Deployment")
    template: Manifest = deployment["spec"]["template"]
    return template


def containers_of(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {container["name"]: container for container in pod_of(manifests)["spec"]["containers"]}


def config_map(manifests: list[Manifest], prefix: str) -> dict[str, str]:
    """The data of the ConfigMap of this name, which kustomize has lengthened by a hash."""
    (found,) = [m["data"] for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"].startswith(prefix)]
    data: dict[str, str] = found
    return data


def settings_of(manifests: list[Manifest]) -> dict[str, str]:
    return config_map(manifests, "regraft-settings")
