"""A version that is damaged, or does not answer as it was measured, harms nobody but itself, whatever the traffic."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.counting import tally
from tests.service.callers import calling
from tests.service.conftest import Server, installation_in, serving, wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    installation = installation_in(tmp_path_factory.mktemp("versions"))
    installation.publish("good")
    installation.release("good")
    with serving(installation) as server:
        wait_until(server.ready)
        yield server


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 3] ^= 1
    (folder / "model.onnx").write_bytes(content)


def lose_a_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def cut_the_manifest(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "model.onnx of version {} is missing or damaged"),
        (lose_a_file, "model.onnx of version {} is missing or damaged"),
        (cut_the_manifest, "the manifest of version {} is damaged"),
    ],
)
def test_a_damaged_version_is_refused_with_the_reason_and_production_goes_on(
    server: Server, damage: Callable[[Path], None], reason: str
) -> None:
    name = damage.__name__
    server.installation.publish(name)
    damage(Path(server.installation.settings.versions) / name)
    refused_when_released(server, name, reason.format(name), candidate=False)


def test_a_candidate_that_does_not_reproduce_its_golden_examples_gets_no_traffic(server: Server) -> None:
    server.installation.publish("other", behaviour="wrong_golden")
    refused_when_released(server, "other", "golden example 0 is answered with a difference", candidate=True)


def test_a_version_that_is_not_there_yet_is_waited_for_and_production_goes_on(server: Server) -> None:
    """Its manifest comes last: a store may show the release before the version."""
    installation = server.installation
    installation.publish("late")
    manifest = Path(installation.settings.versions) / "late" / "manifest.json"
    manifest.rename(manifest.with_suffix(".away"))
    with calling(server, threads=4) as callers:
        installation.release("late")
        wait_until(lambda: server.get("/release").json()["stale"])
        shown = server.get("/release").json()
        count = len(callers.answers)
        wait_until(lambda: len(callers.answers) > count + 200)
        manifest.with_suffix(".away").rename(manifest)
        wait_until(lambda: server.get("/release").json()["serving"]["production"] == "late")
    installation.release("good")
    wait_until(lambda: server.get("/release").json()["serving"]["production"] == "good")
    counts = tally(callers, installation.log)
    print(f"late: {counts}")
    assert "there is no version 'late'" in shown["stale"]
    assert shown["serving"]["production"] == "good"
    assert callers.failures == []
    assert (counts.lost, counts.doubled, counts.unlogged) == (0, 0, 0)


def refused_when_released(server: Server, version: str, reason: str, *, candidate: bool) -> None:
    """Under traffic, and with the good version released again afterwards."""
    with calling(server, threads=4, feedback_every=20) as callers:
        wait_until(lambda: len(callers.answers) > 100)
        if candidate:
            server.installation.release("good", version, 0.5)
        else:
            server.installation.release(version)
        wait_until(lambda: version in server.get("/release").json()["refused"])
        shown = server.get("/release").json()
        count = len(callers.answers)
        wait_until(lambda: len(callers.answers) > count + 200)
        server.installation.release("good")
        wait_until(lambda: not server.get("/release").json()["refused"])
    counts = tally(callers, server.installation.log)
    print(f"{version}: {counts}")
    assert reason in shown["refused"][version]
    assert version not in shown["loaded"]
    assert shown["serving"]["production"] == "good"
    assert {(answer["version"], answer["arm"]) for answer in callers.answers} == {("good", "production")}
    assert callers.failures == []
    assert (counts.lost, counts.doubled, counts.unlogged, counts.untaken) == (0, 0, 0, 0)
