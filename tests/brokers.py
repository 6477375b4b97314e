"""A real Kafka for the tests, as scripts/kafka runs it: it can be killed, and goes on with the same data."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "kafka"
REQUIRED = os.environ.get("REGRAFT_TEST_KAFKA") == "required"
HOW_TO_GET_KAFKA = (
    "they need Java 17 and Maven (Debian: apt-get install openjdk-17-jre-headless maven), or Java and KAFKA_HOME"
)


def missing() -> str | None:
    """What keeps a Kafka from being started here."""
    if shutil.which("java") is None:
        return "no Kafka: there is no java here"
    brought = "KAFKA_HOME" in os.environ or list((ROOT / ".cache").glob("kafka-*"))
    if not brought and shutil.which("mvn") is None:
        return "no Kafka: KAFKA_HOME is not set and there is no mvn here"
    return None


class Broker:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it takes connections."""
        output = (self._folder / "output.txt").open("ab")
        command = [str(SCRIPT), "--port", str(self.port), "--data", str(self._folder / "data")]
        with output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + 120
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError((self._folder / "output.txt").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    @contextmanager
    def killed(self) -> Iterator[None]:
        """kill -9, and started again in the end."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It answers nobody and refuses nobody, as behind a network that swallows everything."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
