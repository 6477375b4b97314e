"""A disk that is full to the last byte, under a server that goes on answering: nothing that was said to be logged is
lost, what is not logged is said and counted, and all is well when there is room again."""

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.faults.conftest import on_kafka
from tests.faults.counting import PATIENCE, outlast, settled, tally
from tests.service.callers import calling
from tests.service.conftest import Installation, Server, installation_in, serving, wait_until


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_with_a_full_disk_every_request_is_answered_and_what_is_not_logged_is_counted(disk: Disk) -> None:
    installation = installation_in(disk.folder)
    installation.publish("v1")
    goes_on_without_room(disk, installation, nullcontext())


@pytest.mark.kafka
def test_with_a_full_disk_and_without_a_broker_too(disk: Disk, kafka: Broker) -> None:
    goes_on_without_room(disk, on_kafka(kafka, disk.folder), kafka.paused())


def goes_on_without_room(disk: Disk, installation: Installation, meanwhile: AbstractContextManager[None]) -> None:
    installation.publish("v2")
    installation.release("v1", "v2", 0.0001)
    with serving(installation) as server:
        wait_until(lambda: server.ready() and len(server.workers()) == installation.settings.workers)
        workers = {worker.pid for worker in server.workers()}
        with calling(server, threads=4, feedback_every=20) as callers:
            wait_until(lambda: len(callers.answers) > 100)
            with meanwhile:
                disk.fill()
                wait_until(lambda: callers.answers[-1]["logged"] is False, seconds=PATIENCE)
                outlast(callers)
                new_series(server)
                disk.free()
                wait_until(lambda: callers.answers[-1]["logged"], seconds=PATIENCE)
            outlast(callers, 1.0)
        settled(server)
        unlogged = server.samples()["regraft_unlogged_predictions_total"]
        assert {worker.pid for worker in server.workers()} == workers
    counts = tally(callers, installation.log)
    print(f"disk full: {counts}")
    installation.log.close()
    assert callers.failures == []
    assert (counts.lost, counts.doubled) == (0, 0)
    assert 0 < counts.unlogged == unlogged - SERIES
    assert counts.untaken > 0


SERIES = 40


def new_series(server: Server) -> None:
    """Answers of a version that has given none yet: its metrics want room of their own."""
    body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["a positive day"]}]}
    for _ in range(SERIES):
        assert server.post("/v2/models/reviews/versions/v2/infer", body).status_code == 200
