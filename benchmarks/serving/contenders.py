"""The servers, each started as its users start it: a command, its environment, and the ways in which it is asked.

To add one: a file in servers/, a line in OTHERS, and an entry in load.WIRES when it speaks another JSON.
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.serving.load import WIRES, Job, Outcome
from benchmarks.serving.material import ROOT, TASK, VERSION, VERSIONS, WORK, Expected

READY_SECONDS = 90.0
STOP_SECONDS = 5.0
OURS = ROOT / ".venv" / "bin"
THEIRS = WORK / "venv" / "bin"
SERVERS = "benchmarks.serving.servers"
REGRAFT_PROTOCOLS = {"http": "native", "oip-http": "oip json", "oip-http-binary": "oip binary", "oip-grpc": "oip grpc"}
Command = Sequence[str | Path]


class Ports(NamedTuple):
    http: int
    grpc: int

    def of(self, wire: str) -> int:
        return self.grpc if wire == "oip grpc" else self.http


@dataclass(frozen=True)
class Contender:
    """`command` gets the ports and a folder that is thrown away afterwards; `prepare` is run before it, to its end.
    `protocols`: names for the table, each with one of load.WIRES. With `broker`, a Kafka of its own runs beside it."""

    server: str
    command: Callable[[Ports, Path], Command]
    protocols: Mapping[str, str]
    logging: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], Command] | None = None
    broker: bool = False

    @property
    def name(self) -> str:
        return f"{self.server} ({self.logging})" if self.logging else self.server

    @property
    def must_log(self) -> bool:
        return self.logging in ("local", "broker")


def regraft(logging: str, protocols: Sequence[str]) -> Contender:
    """`logging` is a value of REGRAFT_DURABILITY."""
    return Contender(
        "regraft",
        lambda ports, home: [
            *("env", f"REGRAFT_PORT={ports.http}", f"REGRAFT_GRPC_PORT={ports.grpc}"),
            *(OURS / "regraft", "--task", TASK, "--home", home, "serve"),
        ],
        {name: REGRAFT_PROTOCOLS[name] for name in protocols},
        logging,
        {"REGRAFT_VERSIONS_URL": str(VERSIONS), "REGRAFT_DURABILITY": logging},
        lambda home: [OURS / "regraft", "--task", TASK, "--home", home, "release", "promote", VERSION],
        broker=logging == "broker",
    )


OTHERS = (
    Contender(
        "fastapi",
        lambda ports, _: [
            *(THEIRS / "uvicorn", f"{SERVERS}.fastapi_app:app", "--port", str(ports.http)),
            *("--workers", "2", "--no-access-log", "--log-level", "warning"),
        ],
        {"http": "plain"},
    ),
    Contender(
        "bentoml",
        lambda ports, _: [THEIRS / "bentoml", "serve", f"{SERVERS}.bentoml_service:Reviews", "--port", str(ports.http)],
        {"http": "batch of one"},
        environment={"BENTOML_DO_NOT_TRACK": "true"},
    ),
    Contender(
        "litserve",
        lambda ports, _: [THEIRS / "python", "-m", f"{SERVERS}.litserve_api", str(ports.http)],
        {"http": "plain"},
    ),
    Contender(
        "mosec",
        lambda ports, _: [
            *(THEIRS / "python", "-m", f"{SERVERS}.mosec_worker", "--port", str(ports.http)),
            *("--address", "127.0.0.1", "--log-level", "warning"),
        ],
        {"http": "inference"},
    ),
)
ECHO = Contender(
    "echo", lambda ports, _: [THEIRS / "python", "-m", f"{SERVERS}.echo", str(ports.http)], {"http": "plain"}
)


@dataclass(frozen=True)
class Server:
    contender: Contender
    ports: Ports
    pid: int
    broker_pid: int | None = None

    def cpu_seconds(self) -> float:
        """Processor time that its processes have taken so far."""
        return _cpu_seconds(self.pid)

    def broker_cpu_seconds(self) -> float | None:
        return None if self.broker_pid is None else _cpu_seconds(self.broker_pid)

    def ask(self, wire: str, concurrency: int, expected: Expected, **more: float) -> Outcome:
        """Lets the load generator do it, in a process of its own; `more` as in Job."""
        texts = asdict(expected)
        job = Job(self.ports.of(wire), wire, concurrency, **texts, logged=self.contender.must_log, **more)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "benchmarks.serving.load"]
        done = subprocess.run(
            command, cwd=ROOT, input=json.dumps(asdict(job)).encode(), stdout=subprocess.PIPE, check=True
        )
        return Outcome(**json.loads(done.stdout))


def _cpu_seconds(pid: int) -> float:
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


@contextmanager
def running(contender: Contender, probe: str) -> Iterator[Server]:
    """The server, once it has answered `probe`. All its processes are gone afterwards."""
    ports, home = Ports(_free_port(), _free_port()), Path(tempfile.mkdtemp(prefix="home-", dir=WORK))
    environment = os.environ | {
        "MODEL_FOLDER": str(VERSIONS / VERSION),
        "PYTHONPATH": str(ROOT),
        "BENTOML_HOME": str(home / "bentoml"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **contender.environment,
    }
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        broker = None
        if contender.broker:
            port = _free_port()
            command: Command = [ROOT / "scripts" / "kafka", "--port", str(port), "--data", home / "kafka"]
            broker = stack.enter_context(_process(command, environment, home / "kafka.txt"))
            _wait(broker, lambda: _listens(port), home / "kafka.txt")
            environment["REGRAFT_LOG_URL"] = f"kafka://127.0.0.1:{port}/benchmark"
        if contender.prepare:
            subprocess.run(contender.prepare(home), env=environment, check=True, stdout=subprocess.DEVNULL)
        output = home / "output.txt"
        server = stack.enter_context(_process(contender.command(ports, home), environment, output))
        _wait(server, lambda: _answers(contender, ports, probe), output)
        yield Server(contender, ports, server.pid, broker.pid if broker else None)


@contextmanager
def _process(command: Command, environment: Mapping[str, str], output: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], output: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if ready():
            return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} does not answer:\n{output.read_text(errors='replace')[-3000:]}")


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def _answers(contender: Contender, ports: Ports, probe: str) -> bool:
    name = next(iter(contender.protocols.values()))
    with suppress(OSError), socket.create_connection(("127.0.0.1", ports.of(name)), timeout=5) as connection:
        wire = WIRES[name]
        talk = wire.talk()
        connection.sendall(talk.opening() + talk.ask(wire.prepare(probe)))
        while data := connection.recv(65536):
            if reply := talk.take(data):
                return reply.ok
    return False


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
