"""A whole system, `regraft up`, on free ports and tiny versions."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft import releases
from regraft.eventlog import open_log
from regraft.settings import Settings
from tests.fakes import LABELS, tiny_task, tiny_version


class System:
    """What a test needs of the system that runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.service = httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=30)
        self.monitor = httpx.Client(base_url=f"http://127.0.0.1:{settings.monitor_port}", timeout=30)

    def predict(self, text: str, **given: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.service.post("/predict", json={"input": text} | given).raise_for_status().json()
        return answer

    def close(self) -> None:
        self.service.close()
        self.monitor.close()


def wait_until(condition: Callable[[], object], *, seconds: float = 60, what: str = "") -> None:
    """Returns when `condition` is true; one that raises a connection error is not true yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"did not happen within {seconds} s: {what or condition}")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    sections: dict[str, Any] = {
        "audit": {"rate": 0.5, "experiment_rate": 1.0},
        "drift": {"every_seconds": 1, "window": 100, "minimum": 50},
        "retraining": {"new_labels": 20},
    }
    return settings_of(tmp_path, **sections)


def settings_of(folder: Path, **sections: Any) -> Settings:
    """Of a tiny task with these sections: ports that are free, and short intervals."""
    port, grpc_port, monitor_port = free_ports(3)
    return Settings.read(
        task=tiny_task(folder, **sections),
        home=folder / "home",
        port=port,
        grpc_port=grpc_port,
        monitor_port=monitor_port,
        poll_seconds=0.1,
        record_seconds=0.2,
        judge_seconds=0.5,
    )


@pytest.fixture
def system(settings: Settings, reference: bytes) -> Iterator[System]:
    tiny_version(settings.versions, "v1", files={"reference.parquet": reference})
    tiny_version(settings.versions, "v2", behaviour="contrary", files={"reference.parquet": reference})
    log = open_log(settings.log)
    releases.change(log, releases.current(log), releases.Release(production="v1"), who="test", why="start")
    log.close()
    with running(settings), closing(System(settings)) as system:
        yield system


@contextmanager
def running(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "regraft", "up"], env=os.environ | settings.as_environment(), start_new_session=True
    )
    try:
        for port, path in ((settings.port, "readyz"), (settings.monitor_port, "healthz")):
            url = f"http://127.0.0.1:{port}/{path}"
            wait_until(lambda url=url: httpx.get(url).is_success, seconds=90, what=url)  # type: ignore[misc]
        yield process
    except BaseException:
        for file in sorted((settings.home / "run").glob("*.log")):
            print(f"--- {file.name}", file.read_text()[-5000:], sep="\n")
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="session")
def reference() -> bytes:
    """A reference.parquet of texts like those that the tests send, as the tiny version v1 answers them."""
    generator = np.random.default_rng(0)
    texts = [sentence(generator) for _ in range(300)]
    features = generator.normal(size=(300, 8)).astype(np.float32)
    table = pa.table(
        {
            "input": texts,
            "label": [LABELS[i % 3] for i in range(300)],
            "true_label": [LABELS[i % 3] for i in range(300)],
            "confidence": generator.uniform(0.4, 1.0, 300),
            "features": list(features),
            "probabilities": list(generator.dirichlet((1, 1, 1), 300).astype(np.float32)),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def sentence(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(["a", "day", "was", "rather", *LABELS], size=generator.integers(2, 12)))
