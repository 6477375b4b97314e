"""Real servers as processes on free ports, and the parts of one worker in this process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from regraft import releases
from regraft.eventlog import EventLog, open_log
from regraft.events import Event, PredictionMade
from regraft.settings import Settings
from service.parts import Parts
from tests.fakes import tiny_task, tiny_version

STARTUP_SECONDS = 120.0
REGRAFT_SERVE = (sys.executable, "-m", "regraft", "serve")


def wait_until(condition: Callable[[], Any], *, seconds: float = 20.0, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} seconds"
        time.sleep(every)


def events_of(log: EventLog, kind: type[Event] = PredictionMade) -> list[Any]:
    consumer, events = log.consumer(kinds=[kind]), []
    while records := consumer.poll():
        events += [record.event for record in records]
    return events


@dataclass
class Installation:
    """A home with a task, a version store and an event log."""

    settings: Settings
    log: EventLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = open_log(self.settings.log)

    def publish(self, *versions: str, **options: Any) -> None:
        for version in versions:
            tiny_version(self.settings.versions, version, **options)

    def release(self, production: str, candidate: str | None = None, share: float = 0.0) -> releases.Release:
        before = releases.current(self.log)
        after = replace(before, production=production, candidate=candidate, share=share)
        return releases.change(self.log, before, after, who="test", why="test")


@dataclass
class Server:
    """A running server. Each request of `client` has a connection of its own, so that any worker may get it."""

    installation: Installation
    process: subprocess.Popen[bytes]
    output: Path
    client: httpx.Client

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def samples(self) -> dict[str, float]:
        """The metrics: `name{labels}` to value."""
        lines = [line for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "_bentoml_impl.worker.service" in " ".join(_command(child))]

    def workers_left(self) -> list[int]:
        """Workers of this server's home that are still there, whoever their parent is now."""
        return [
            process.pid
            for process in psutil.process_iter()
            if str(self.installation.settings.home) in _environment(process).get("BENTOML_HOME", "")
        ]

    def ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def alive(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        try:
            return self.get("/livez").status_code == 200
        except httpx.TransportError:
            return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except psutil.Error:
        return {}


def installation_in(folder: Path, *, workers: int = 1, poll_seconds: float = 0.05, **sections: Any) -> Installation:
    with socket.socket() as http, socket.socket() as grpc:
        for probe in (http, grpc):
            probe.bind(("127.0.0.1", 0))
        port, grpc_port = http.getsockname()[1], grpc.getsockname()[1]
    settings = Settings(
        task=tiny_task(folder, **sections),
        home=folder / "home",
        port=port,
        grpc_port=grpc_port,
        workers=workers,
        poll_seconds=poll_seconds,
    )
    return Installation(settings)


@contextmanager
def serving(installation: Installation, command: Sequence[str] = REGRAFT_SERVE, **environment: str) -> Iterator[Server]:
    """Live when entered; stopped with all its workers when left."""
    output = installation.settings.home.parent / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=os.environ | installation.settings.as_environment() | environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=installation.settings.home.parent,
        )
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{installation.settings.port}",
        timeout=30,
        verify=False,
        limits=httpx.Limits(max_keepalive_connections=0),
    )
    server = Server(installation, process, output, client)
    try:
        wait_until(server.alive, seconds=STARTUP_SECONDS, every=0.1)
        yield server
    finally:
        client.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            for pid in server.workers_left():  # none, when the stop went well
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with version v1 in production, for tests that leave it as it is."""
    installation = installation_in(tmp_path_factory.mktemp("server"))
    installation.publish("v1")
    installation.release("v1")
    with serving(installation) as running:
        wait_until(running.ready)
        yield running


@pytest.fixture
def installation(tmp_path: Path, request: pytest.FixtureRequest) -> Installation:
    """With versions v1, in production, and v2; the sections of the task file come as a parameter."""
    installation = installation_in(tmp_path, **getattr(request, "param", {}))
    installation.publish("v1", "v2")
    installation.release("v1")
    return installation


@pytest.fixture
async def parts(installation: Installation) -> AsyncIterator[Parts]:
    parts = Parts.assemble(installation.settings)
    await parts.start()
    yield parts
    await parts.close()
