from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import regraft
from regraft.settings import Settings
from regraft.task import Task
from tests.k8s.kustomize import K8S, Manifest, built, config_map, containers_of, of_kind, pod_of, settings_of

BASE = K8S / "base"
# The oldest release that knows everything the manifests use, and the newest that can be checked against.
RELEASES = ("1.30", kubernetes_validate.latest_version())


def listed() -> list[Manifest]:
    """The same without kustomize: the resources in its list and the ConfigMaps that it would generate."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "resources", "configMapGenerator"}, "this test composes no more"
    resources = [m for name in kustomization["resources"] for m in yaml.safe_load_all((BASE / name).read_text())]
    return resources + [_config_map(generator) for generator in kustomization["configMapGenerator"]]


def _config_map(generator: dict[str, Any]) -> Manifest:
    data = {name: (BASE / name).read_text() for name in generator.get("files", [])}
    for name in generator.get("envs", []):
        lines = (BASE / name).read_text().splitlines()
        data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


@pytest.fixture(scope="module", params=["built", "listed"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return built(BASE) if request.param == "built" else listed()


@pytest.fixture
def pod(manifests: list[Manifest]) -> Manifest:
    return pod_of(manifests)


@pytest.fixture
def containers(manifests: list[Manifest]) -> dict[str, Manifest]:
    return containers_of(manifests)


@pytest.mark.parametrize("release", RELEASES)
def test_every_manifest_is_valid_and_says_nothing_unknown(manifests: list[Manifest], release: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, release, strict=True)


def test_nothing_is_bound_to_a_namespace(manifests: list[Manifest]) -> None:
    assert [m["kind"] for m in manifests if "namespace" in m["metadata"]] == []


def test_what_is_selected_exists(manifests: list[Manifest], pod: Manifest) -> None:
    labels = pod["metadata"]["labels"].items()
    (deployment,) = of_kind(manifests, "Deployment")
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    for service in of_kind(manifests, "Service"):
        assert service["spec"]["selector"].items() <= labels


def test_what_is_mounted_exists(manifests: list[Manifest], pod: Manifest, containers: dict[str, Manifest]) -> None:
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounted = {mount["name"] for container in containers.values() for mount in container["volumeMounts"]}
    assert mounted == set(volumes)
    claims = {claim["metadata"]["name"] for claim in of_kind(manifests, "PersistentVolumeClaim")}
    assert {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v} == claims
    maps = {found["metadata"]["name"] for found in of_kind(manifests, "ConfigMap")}
    used = {v["configMap"]["name"] for v in volumes.values() if "configMap" in v}
    used |= {source["configMapRef"]["name"] for c in containers.values() for source in c["envFrom"]}
    assert used == maps


def test_ports_lead_where_the_settings_say(manifests: list[Manifest], containers: dict[str, Manifest]) -> None:
    ports = {port["name"]: port["containerPort"] for c in containers.values() for port in c.get("ports", [])}
    settings = settings_of(manifests)
    variables = {"http": "REGRAFT_PORT", "grpc": "REGRAFT_GRPC_PORT", "monitor": "REGRAFT_MONITOR_PORT"}
    assert ports == {name: int(settings[variable]) for name, variable in variables.items()}
    for service in of_kind(manifests, "Service"):
        reached = [ports[port["targetPort"]] for port in service["spec"]["ports"]]
        assert reached[0] == int(service["metadata"]["annotations"]["prometheus.io/port"])
    for container in containers.values():
        own = {port["name"] for port in container.get("ports", [])}
        assert {container[p]["httpGet"]["port"] for p in container if p.endswith("Probe")} <= own


def test_the_settings_are_real_and_can_be_read(manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_of(manifests)
    assert {name.removeprefix("REGRAFT_").lower() for name in given} <= set(Settings.model_fields)
    for name, value in given.items():
        assert name.startswith("REGRAFT_")
        monkeypatch.setenv(name, value)
    settings = Settings.read()
    assert settings.as_environment().items() >= given.items()


def test_no_service_can_pass_for_a_setting(pod: Manifest) -> None:
    assert pod["spec"]["enableServiceLinks"] is False


def test_everything_lies_where_it_is_mounted(manifests: list[Manifest], containers: dict[str, Manifest]) -> None:
    settings = settings_of(manifests)
    for container in containers.values():
        paths = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert paths[settings["REGRAFT_HOME"]] == "home"
        assert paths[str(Path(settings["REGRAFT_TASK"]).parent)] == "task"
        for variable in container["env"]:
            if variable.get("value", "").startswith("/"):
                assert any(Path(variable["value"]).is_relative_to(path) for path in paths)


def test_the_placeholder_is_a_task(manifests: list[Manifest], tmp_path: Path) -> None:
    data = config_map(manifests, "regraft-task")
    (tmp_path / "task.yaml").write_text(data["task.yaml"])
    task = Task.load(tmp_path / "task.yaml")
    home = settings_of(manifests)["REGRAFT_HOME"]
    assert all(Path(file).is_relative_to(home) for file in task.data.files)


def test_one_pod_at_a_time_holds_the_log(manifests: list[Manifest]) -> None:
    (deployment,) = of_kind(manifests, "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    (claim,) = of_kind(manifests, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_containers_may_do_no_more_than_they_need(pod: Manifest, containers: dict[str, Manifest]) -> None:
    assert set(containers) == {"service", "monitor", "worker"}
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers.values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_images_are_those_of_this_release(containers: dict[str, Manifest]) -> None:
    tags = {container["image"].partition(":")[2] for container in containers.values()}
    assert tags == {regraft.__version__}


def test_training_takes_as_many_threads_as_processors_were_asked_for(containers: dict[str, Manifest]) -> None:
    (threads,) = [variable for variable in containers["worker"]["env"] if variable["name"] == "OMP_NUM_THREADS"]
    assert threads["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu"}}
    assert containers["worker"]["resources"]["requests"]["cpu"]
