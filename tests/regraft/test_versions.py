"""A version is complete or absent, whoever dies or collides while publishing it."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regraft.errors import ConfigError, NotFound, VersionRefused
from regraft.versions import MANIFEST, Artifact, Manifest, Metric, VersionStore


def manifest(version: str, minute: int = 0) -> Manifest:
    metrics = {"accuracy": Metric(value=0.8, low=0.75, high=0.85)}
    return Manifest(
        version=version,
        task="reviews",
        created_at=datetime(2026, 11, 23, 4, minute, tzinfo=UTC),
        labels=("bad", "good"),
        preprocessing_sha256="0" * 64,
        features=2,
        backbone={"source": "tiny"},
        artifacts={"fp32": Artifact(file="model.onnx", kept=True, reason="the reference")},
        temperature=1.0,
        validation=metrics,
        test=metrics,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"network" * 1000)
    (folder / "checkpoint" / "suffix.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VersionStore:
    url = str(tmp_path / "versions") if request.param == "local" else f"memory://{tmp_path.name}"
    return VersionStore(url, cache=tmp_path / "cache")


def test_what_was_published_is_fetched(store: VersionStore, folder: Path) -> None:
    published = store.publish(folder, manifest("v1"))
    fetched = store.fetch("v1")
    assert (fetched / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert (fetched / "checkpoint" / "suffix.safetensors").read_bytes() == b"weights"
    assert set(published.files) == {"model.onnx", "checkpoint/suffix.safetensors"}
    assert store.fetch("v1") == fetched


def test_versions_are_listed_oldest_first(store: VersionStore, folder: Path) -> None:
    assert store.list() == []
    for version, minute in (("b", 1), ("a", 2), ("c", 0)):
        store.publish(folder, manifest(version, minute))
    assert [m.version for m in store.list()] == ["c", "b", "a"]


def test_publishing_again_leaves_the_first(store: VersionStore, folder: Path) -> None:
    store.publish(folder, manifest("v1"))
    (folder / "model.onnx").write_bytes(b"another")
    store.publish(folder, manifest("v1"))
    assert (store.fetch("v1") / "model.onnx").read_bytes().startswith(b"network")


def test_publishing_at_once_leaves_one_whole_version(store: VersionStore, folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.publish(folder, manifest("v1")), range(8)))
    assert len({m.model_dump_json() for m in made}) == 1
    assert [m.version for m in store.list()] == ["v1"]
    store.fetch("v1")


def test_a_remote_version_whose_local_copy_was_cut_off_is_fetched_again(tmp_path: Path, folder: Path) -> None:
    store = VersionStore(f"memory://again-{tmp_path.name}", cache=tmp_path / "cache")
    store.publish(folder, manifest("v1"))
    (store.fetch("v1") / "model.onnx").write_bytes(b"net")
    assert (store.fetch("v1") / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize("name", ["none", "", "../v1", ".v1", "a/b", "a\\b"])
def test_an_unknown_version_is_not_found(store: VersionStore, folder: Path, name: str) -> None:
    store.publish(folder, manifest("v1"))
    with pytest.raises(NotFound, match="no version"):
        store.fetch(name)


def local(tmp_path: Path, folder: Path) -> VersionStore:
    store = VersionStore(str(tmp_path / "versions"))
    store.publish(folder, manifest("v1"))
    return store


def test_a_damaged_file_is_refused(tmp_path: Path, folder: Path) -> None:
    store = local(tmp_path, folder)
    with (tmp_path / "versions" / "v1" / "model.onnx").open("r+b") as file:
        file.seek(500)
        file.write(b"X")
    with pytest.raises(VersionRefused, match=r"model\.onnx"):
        store.fetch("v1")


def test_a_missing_file_is_refused(tmp_path: Path, folder: Path) -> None:
    store = local(tmp_path, folder)
    (tmp_path / "versions" / "v1" / "model.onnx").unlink()
    with pytest.raises(VersionRefused, match=r"model\.onnx"):
        store.fetch("v1")


def test_a_damaged_manifest_is_refused(tmp_path: Path, folder: Path) -> None:
    store = local(tmp_path, folder)
    (tmp_path / "versions" / "v1" / MANIFEST).write_text('{"version": ')
    with pytest.raises(VersionRefused, match="damaged"):
        store.manifest("v1")


def test_a_folder_without_a_manifest_is_no_version(tmp_path: Path, folder: Path) -> None:
    store = local(tmp_path, folder)
    (tmp_path / "versions" / "half").mkdir()
    (tmp_path / "versions" / "half" / "model.onnx").write_bytes(b"half")
    assert [m.version for m in store.list()] == ["v1"]
    assert not store.exists("half")


PUBLISHER = """
import sys
from pathlib import Path
from regraft.versions import VersionStore
from tests.regraft.test_versions import manifest
store, number = VersionStore(sys.argv[1]), 0
print("ready", flush=True)
while True:
    store.publish(Path(sys.argv[2]), manifest(f"{sys.argv[3]}-{number}"))
    number += 1
"""


def test_kill_9_leaves_only_whole_versions(tmp_path: Path, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(os.urandom(300_000))
    store = VersionStore(str(tmp_path / "versions"))
    for attempt in range(4):
        arguments = [sys.executable, "-c", PUBLISHER, str(tmp_path / "versions"), str(folder), str(attempt)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as publisher:
            assert publisher.stdout is not None
            publisher.stdout.readline()
            time.sleep(0.05 + attempt * 0.013)
            publisher.send_signal(signal.SIGKILL)
    versions = store.list()
    assert versions
    for version in versions:
        store.fetch(version.version)


def test_a_store_that_cannot_be_opened_says_so() -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        VersionStore("nosuchprotocol://bucket")


def test_one_file_is_read_and_held_against_its_hash(store: VersionStore, folder: Path, tmp_path: Path) -> None:
    store.publish(folder, manifest("v1"))
    assert store.read("v1", "checkpoint/suffix.safetensors") == b"weights"
    with pytest.raises(NotFound, match="version v1 has no other"):
        store.read("v1", "other")


def test_a_file_that_was_changed_or_removed_is_not_read(tmp_path: Path, folder: Path) -> None:
    store = VersionStore(str(tmp_path / "versions"))
    store.publish(folder, manifest("v1"))
    file = store.fetch("v1") / "model.onnx"
    file.write_bytes(b"other")
    with pytest.raises(VersionRefused, match=r"model\.onnx of version v1 is missing or damaged"):
        store.read("v1", "model.onnx")
    file.unlink()
    with pytest.raises(VersionRefused, match="missing or damaged"):
        store.read("v1", "model.onnx")
