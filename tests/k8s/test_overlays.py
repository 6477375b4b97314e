"""What the overlays change of the base, and nothing else."""

import os
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import regraft
from tests.k8s.kustomize import K8S, Manifest, built, containers_of, of_kind, pod_of, settings_of


@pytest.fixture(scope="module")
def base() -> list[Manifest]:
    return built(K8S / "base")


@pytest.fixture(scope="module")
def gpu() -> list[Manifest]:
    return built(K8S / "gpu")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    folder = tmp_path_factory.mktemp("overlay").resolve()
    base, component = (os.path.relpath(K8S / name, folder) for name in ("base", "keys"))
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "components": [component]}))
    return built(folder)


@pytest.mark.parametrize("overlay", ["gpu", "keys"])
def test_every_overlay_is_valid_and_says_nothing_unknown(overlay: str, request: pytest.FixtureRequest) -> None:
    manifests: list[Manifest] = request.getfixturevalue(overlay)
    assert of_kind(manifests, "Deployment")
    for manifest in manifests:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_service_gets_a_gpu_and_is_told_to_use_it(gpu: list[Manifest], base: list[Manifest]) -> None:
    assert settings_of(gpu) == settings_of(base) | {"REGRAFT_PROVIDER": "cuda"}
    service = containers_of(gpu)["service"]
    assert service["image"] == f"regraft-service-gpu:{regraft.__version__}"
    assert service["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert service["resources"]["requests"] == containers_of(base)["service"]["resources"]["requests"]
    assert {variable["name"] for variable in service["env"]} > {"BENTOML_HOME"}
    assert pod_of(gpu)["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_whatever_needs_no_gpu_stays_as_it_is(gpu: list[Manifest], base: list[Manifest]) -> None:
    for name in ("monitor", "worker"):
        with_gpu, without = (containers_of(manifests)[name] for manifests in (gpu, base))
        renamed = {"envFrom": without["envFrom"]}  # the settings' name holds their hash
        assert with_gpu | renamed == without
    for kind in ("Service", "PersistentVolumeClaim"):
        assert of_kind(gpu, kind) == of_kind(base, kind)


def test_service_and_monitor_read_the_keys_where_they_are_mounted(keys: list[Manifest]) -> None:
    file = Path(settings_of(keys)["REGRAFT_KEYS_FILE"])
    volumes = {volume["name"]: volume for volume in pod_of(keys)["spec"]["volumes"]}
    for name in ("service", "monitor"):
        (mount,) = [m for m in containers_of(keys)[name]["volumeMounts"] if m["mountPath"] == str(file.parent)]
        assert mount["readOnly"] is True
        assert volumes[mount["name"]]["secret"] == {"secretName": "regraft-keys"}
    command = (K8S / "keys" / "kustomization.yaml").read_text()
    assert f"secret generic regraft-keys --from-file={file.name}" in command
