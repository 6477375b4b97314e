"""The servers, each started as its users start it: a command, its environment, and the protocols it answers.

To add one: a file in servers/, a line in OTHERS, and a line in wire.PROTOCOLS when it speaks another JSON.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import psutil

from benchmarks.serving.load import Job, Outcome
from benchmarks.serving.material import ROOT, TASK, VERSION, VERSIONS, WORK
from benchmarks.serving.wire import PROTOCOLS

READY_SECONDS = 90.0
STOP_SECONDS = 15.0
OURS = ROOT / ".venv" / "bin"
THEIRS = WORK / "venv" / "bin"
SERVERS = "benchmarks.serving.servers"


@dataclass(frozen=True)
class Contender:
    """`command` gets the port and a folder that is thrown away afterwards. `protocols` are names in wire.PROTOCOLS."""

    server: str
    command: Callable[[int, Path], Sequence[str | Path]]
    protocols: Sequence[str]
    logging: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.server} ({self.logging})" if self.logging else self.server


def regraft(logging: str, log_url: str = "") -> Contender:
    """`logging` is a value of REGRAFT_DURABILITY; `broker` needs the `log_url` of a log on Kafka."""
    environment = {"REGRAFT_VERSIONS_URL": str(VERSIONS), "REGRAFT_DURABILITY": logging, "REGRAFT_LOG_URL": log_url}
    return Contender("regraft", partial(_regraft_command, environment), ("HTTP /predict",), logging, environment)


def _regraft_command(environment: Mapping[str, str], port: int, home: Path) -> Sequence[str | Path]:
    """The command line itself; the version is put into production first, if it is not there from the last time."""
    command: list[str | Path] = [OURS / "regraft", "--task", TASK, "--home", home]
    around = os.environ | environment
    release = subprocess.run([*command, "release", "show"], env=around, check=True, stdout=subprocess.PIPE)
    if json.loads(release.stdout)["production"] != VERSION:
        subprocess.run([*command, "release", "promote", VERSION], env=around, check=True, stdout=subprocess.DEVNULL)
    return ["env", f"REGRAFT_PORT={port}", "REGRAFT_GRPC_PORT=0", *command, "serve"]


OTHERS = (
    Contender(
        "fastapi",
        lambda port, _: [
            *(THEIRS / "uvicorn", f"{SERVERS}.fastapi_app:app", "--port", str(port)),
            *("--workers", "2", "--no-access-log", "--log-level", "warning"),
        ],
        ("HTTP",),
    ),
    Contender(
        "bentoml",
        lambda port, _: [THEIRS / "bentoml", "serve", f"{SERVERS}.bentoml_service:Reviews", "--port", str(port)],
        ("HTTP, batch of one",),
        environment={"BENTOML_DO_NOT_TRACK": "true"},
    ),
    Contender(
        "litserve",
        lambda port, _: [THEIRS / "python", "-m", f"{SERVERS}.litserve_api", str(port)],
        ("HTTP",),
    ),
    Contender(
        "mosec",
        lambda port, _: [
            *(THEIRS / "python", "-m", f"{SERVERS}.mosec_worker", "--port", str(port)),
            *("--address", "127.0.0.1", "--log-level", "warning"),
        ],
        ("HTTP /inference",),
    ),
)
ECHO = Contender("echo", lambda port, _: [THEIRS / "python", "-m", f"{SERVERS}.echo", str(port)], ("HTTP",))


def contenders(logging: Sequence[str] = ("local",), log_url: str = "") -> list[Contender]:
    return [*(regraft(one, log_url if one == "broker" else "") for one in logging), *OTHERS]


@dataclass(frozen=True)
class Server:
    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time that its processes have taken so far."""
        parent = psutil.Process(self.pid)
        times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))


@contextmanager
def running(contender: Contender, probe: str) -> Iterator[Server]:
    """The server, once it has answered `probe`. All its processes are gone afterwards."""
    port, home = _free_port(), Path(tempfile.mkdtemp(prefix="home-", dir=WORK))
    environment = os.environ | {
        "MODEL_FOLDER": str(VERSIONS / VERSION),
        "PYTHONPATH": str(ROOT),
        "BENTOML_HOME": str(home / "bentoml"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **contender.environment,
    }
    output = home / "output.txt"
    try:
        command = contender.command(port, home)
        with output.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
        try:
            _wait(process, contender, port, probe, output)
            yield Server(port, process.pid)
        finally:
            _stop(process)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], contender: Contender, port: int, probe: str, output: Path) -> None:
    protocol = PROTOCOLS[contender.protocols[0]]
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with suppress(OSError, ValueError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(protocol.request(probe))
            buffer = bytearray()
            while data := connection.recv(65536):
                buffer += data
                reply = protocol.take(buffer)
                if reply and reply.ok:
                    return
                if reply:
                    break
        time.sleep(0.2)
    raise RuntimeError(f"{contender.name} does not answer:\n{output.read_text(errors='replace')[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The process group, which is the server's own; whoever does not go is killed."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            until = time.monotonic() + STOP_SECONDS
            while time.monotonic() < until:
                try:
                    os.killpg(process.pid, 0)
                except ProcessLookupError:
                    return
                time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def ask(job: Job) -> Outcome:
    """Lets the load generator do `job`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving.load"]
    given = json.dumps(asdict(job)).encode()
    done = subprocess.run(command, cwd=ROOT, input=given, stdout=subprocess.PIPE, check=True)
    return Outcome(**json.loads(done.stdout))
