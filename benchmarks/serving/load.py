"""The load generator, a process of its own: `concurrency` connections, each of which asks again once it is answered.

One thread, non-blocking sockets, requests made beforehand, answers kept as bytes and judged when the clock has stopped:
it takes its processor time from the server, so there should be little of it. It says how much that was.

python -m benchmarks.serving.load < job as JSON > outcome as JSON
"""

import json
import selectors
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.serving.figures import quantile
from benchmarks.serving.oip_wire import OIP_BINARY, OIP_GRPC, OIP_JSON
from benchmarks.serving.wire import BATCH_OF_ONE, INFERENCE, NATIVE, PLAIN, Answered, Reply, Wire

WIRES: Mapping[str, Wire] = {
    "plain": PLAIN,
    "batch of one": BATCH_OF_ONE,
    "inference": INFERENCE,
    "native": NATIVE,
    "oip json": OIP_JSON,
    "oip binary": OIP_BINARY,
    "oip grpc": OIP_GRPC,
}
PATIENCE_SECONDS = 20.0  # without any answer at all


@dataclass(frozen=True)
class Job:
    """`labels` and `probabilities` are the right answers to `texts`; `logged`: an answer must say that it is."""

    port: int
    wire: str
    concurrency: int
    texts: Sequence[str]
    labels: Sequence[str]
    probabilities: Sequence[Sequence[float]]
    seconds: float
    warm_seconds: float = 0.0
    tolerance: float = 1e-3
    limit: int = 0  # requests in all; 0: as many as the time allows
    logged: bool = False


@dataclass
class Outcome:
    """Of what came within the time; only `sent` counts the warm-up too. What failed is not among `answered`."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    wrong: int = 0
    labels_changed: int = 0
    largest_difference: float = 0.0
    seconds: float = 0.0
    own_cpu_seconds: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    failures: list[str] = field(default_factory=list)


class Connection:
    def __init__(self, port: int, wire: Wire) -> None:
        self._talk = wire.talk()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.socket.send(self._talk.opening())
        self.index = 0
        self.started = 0.0

    def send(self, index: int, question: bytes) -> None:
        self.index = index
        self.started = time.perf_counter()
        self.socket.send(self._talk.ask(question))  # smaller than any socket's buffer

    def receive(self) -> Reply | None:
        """Raises ConnectionError when the server has hung up."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        reply = self._talk.take(data)
        if owed := self._talk.owed():
            self.socket.send(owed)
        return reply


class Record:
    """Who answered what and when; nothing is judged before the end."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.replies: list[Reply] = []
        self.latencies: list[float] = []
        self.failures: list[str] = []


class Generator:
    """Keeps `concurrency` requests under way until the time is over, or `limit` requests are answered."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._wire = WIRES[job.wire]
        self._questions = [self._wire.prepare(text) for text in job.texts]
        self._selector = selectors.DefaultSelector()
        self.sent = 0
        self._record = Record()

    def run(self) -> tuple[Record, float, float]:
        """What came within the time that counts, that time, and the processor time it took here."""
        warm = False
        for _ in range(self._job.concurrency):
            self._connect()
        begin, cpu = time.perf_counter(), time.process_time()
        while self._under_way(time.perf_counter() - begin, warm):
            if not warm and time.perf_counter() - begin >= self._job.warm_seconds:
                self._record, warm = Record(), True
                begin, cpu = time.perf_counter(), time.process_time()
            events = self._selector.select(PATIENCE_SECONDS)
            if not events:
                self._record.failures += ["no answer"] * self._job.concurrency
                break
            for key, _ in events:
                self._receive(key.data)
        taken, own = time.perf_counter() - begin, time.process_time() - cpu
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        return self._record, taken, own

    def _under_way(self, seconds: float, warm: bool) -> bool:
        done = len(self._record.replies) + len(self._record.failures)
        if self._job.limit and done >= self._job.limit:
            return False
        return not warm or seconds < self._job.seconds

    def _connect(self) -> None:
        connection = Connection(self._job.port, self._wire)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        if self._job.limit and self.sent >= self._job.limit:
            return
        index = self.sent % len(self._questions)
        self.sent += 1
        connection.send(index, self._questions[index])

    def _receive(self, connection: Connection) -> None:
        try:
            reply = connection.receive()
            if reply is None:
                return
            self._record.latencies.append(time.perf_counter() - connection.started)
            self._record.indices.append(connection.index)
            self._record.replies.append(reply)
            self._send(connection)
        except OSError as error:
            self._record.failures.append(str(error))
            self._selector.unregister(connection.socket)
            connection.socket.close()
            self._connect()


def judge(job: Job, record: Record, seconds: float, own_cpu_seconds: float) -> Outcome:
    outcome = Outcome(seconds=seconds, own_cpu_seconds=own_cpu_seconds, failed=len(record.failures))
    outcome.failures = record.failures[:3]
    latencies, wire = [], WIRES[job.wire]
    for index, reply, latency in zip(record.indices, record.replies, record.latencies, strict=True):
        try:
            answer = wire.read(reply)
            if job.logged and not answer.logged:
                raise ValueError("answered without being logged")  # noqa: TRY301
        except (ValueError, KeyError, IndexError, TypeError) as error:
            outcome.failed += 1
            outcome.failures = [*outcome.failures, f"{type(error).__name__} {error}: {reply.body[:200]!r}"][:3]
            continue
        latencies.append(latency * 1000)
        _compare(job, index, answer, outcome)
    outcome.answered = len(latencies)
    if latencies:
        outcome.p50_ms, outcome.p99_ms = quantile(latencies, 0.5), quantile(latencies, 0.99)
    return outcome


def _compare(job: Job, index: int, answer: Answered, outcome: Outcome) -> None:
    """Wrong: another label, unless the two are as good as equal, or a probability beyond the tolerance."""
    expected = job.probabilities[index]
    difference = max(abs(one - other) for one, other in zip(answer.probabilities, expected, strict=True))
    outcome.largest_difference = max(outcome.largest_difference, difference)
    changed = answer.label != job.labels[index]
    outcome.labels_changed += changed
    first, second = sorted(expected, reverse=True)[:2]
    outcome.wrong += difference > job.tolerance or (changed and first - second > job.tolerance)


def main() -> None:
    given: dict[str, Any] = json.load(sys.stdin)
    job = Job(**given)
    generator = Generator(job)
    outcome = judge(job, *generator.run())
    outcome.sent = generator.sent
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    main()
