"""What the event log costs, on this machine's disk and on a Kafka that runs already.

scripts/kafka &
python -m benchmarks.eventlog 127.0.0.1:9092
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.serving.figures import quantile
from regraft.eventlog import EventLog, SQLiteLog, open_log
from regraft.eventlog.base import Consumer
from regraft.events import Arm, Event, FeedbackGiven, PredictionMade
from regraft.ids import new_id

EVENTS = 20_000
ONE_BY_ONE = 300
IDLE_SECONDS = 5.0
PATIENCE_SECONDS = 120.0


def prediction() -> PredictionMade:
    """0.4 kB."""
    return PredictionMade(
        version="v1",
        arm=Arm.PRODUCTION,
        generation=1,
        subject="somebody",
        input="The parcel came two days late, and nobody answered.",
        label="delivery",
        confidence=0.9,
        probabilities=(0.9, 0.05, 0.05),
        features=(0.1, 0.2, 0.3, 0.4),
        latency_ms=3.2,
    )


def feedback() -> FeedbackGiven:
    return FeedbackGiven(prediction_id=new_id(), correct=False)


def append_seconds(log: EventLog, make: Callable[[], Event]) -> list[float]:
    """Of single events, each after the other."""
    taken = []
    for _ in range(ONE_BY_ONE):
        event, began = make(), time.perf_counter()
        log.append([event])
        taken.append(time.perf_counter() - began)
    return taken


def arrival_seconds(log: EventLog, reader: Consumer) -> list[float]:
    """From before an append until another reader has the event."""
    taken = []
    for _ in range(ONE_BY_ONE):
        event, began = prediction(), time.perf_counter()
        log.append([event])
        while event.id not in {record.event.id for record in reader.poll()}:
            pass
        taken.append(time.perf_counter() - began)
    return taken


def show(what: str, seconds: Sequence[float]) -> None:
    print(f"{what}: {quantile(seconds, 0.5) * 1000:.2f} ms (p50), {quantile(seconds, 0.98) * 1000:.2f} ms (p98)")


def show_rate(what: str, work: Callable[[], object]) -> None:
    """Of EVENTS events; the processor time is this process', client threads included."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    taken, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"{what}: {EVENTS / taken:,.0f} events/s, {cpu / EVENTS * 1000:.3f} ms of processor time each")


def drain(consumer: Consumer) -> None:
    while consumer.poll():
        pass


def measure(servers: str, folder: Path) -> None:
    with closing(SQLiteLog(folder / "log.sqlite")) as local:
        show("append a prediction on this machine", append_seconds(local, prediction))
        show("append feedback on this machine", append_seconds(local, feedback))
    url = f"kafka://{servers}/regraft.{new_id()}"
    with closing(SQLiteLog(folder / "outbox.sqlite")) as outbox:
        for _ in range(EVENTS // 1_000):
            outbox.append([prediction() for _ in range(1_000)])
    with (
        closing(open_log(f"{url}?local={folder}/other.sqlite&durability=broker")) as straight,
        closing(straight.consumer(kinds=[PredictionMade])) as reader,
    ):
        straight.append([feedback()])  # the topics are made
        drain(reader)
        with closing(open_log(f"{url}?local={folder}/outbox.sqlite")) as log:
            show_rate("relay", lambda: log.flush(PATIENCE_SECONDS))
            show_rate("consumer", lambda: drain(reader))
            show("append until another reader has it", arrival_seconds(log, reader))
            show("append straight to Kafka", append_seconds(straight, prediction))
            cpu = time.process_time()
            time.sleep(IDLE_SECONDS)
            print(
                f"an idle relay: {(time.process_time() - cpu) / IDLE_SECONDS:.1%} of a core, clients' threads included"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", help="host:port of a Kafka")
    with tempfile.TemporaryDirectory() as folder:
        measure(parser.parse_args().servers, Path(folder))


if __name__ == "__main__":
    main()
