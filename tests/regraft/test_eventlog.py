"""What every backend of the event log promises. A new backend joins by one entry in `LOGS`."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regraft.errors import ConfigError
from regraft.eventlog import Consumer, EventLog, Record, open_log
from regraft.events import CandidateRefused, Event, FeedbackGiven, PredictionMade, ReleaseChanged, RetrainingRequested
from regraft.ids import new_id
from tests.brokers import Broker
from tests.regraft.test_events import prediction

PATIENCE = 20.0


def sqlite_url(folder: Path, _: pytest.FixtureRequest) -> str:
    return f"sqlite:///{folder}/log.sqlite"


def kafka_url(folder: Path, request: pytest.FixtureRequest) -> str:
    broker: Broker = request.getfixturevalue("kafka")
    return f"kafka://{broker.address}/regraft.{new_id()}?local={folder}/outbox.sqlite&partitions=2"


LOGS: dict[str, Callable[[Path, pytest.FixtureRequest], str]] = {"sqlite": sqlite_url, "kafka": kafka_url}


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return LOGS[request.param](tmp_path, request)


@pytest.fixture
def log(url: str) -> Iterator[EventLog]:
    log = open_log(url)
    yield log
    log.close()


def drain(consumer: Consumer, limit: int = 1000) -> list[Record]:
    found = []
    while records := consumer.poll(limit):
        found += records
    return found


def read(log: EventLog, **given: object) -> list[Record]:
    log.flush(PATIENCE)
    consumer = log.consumer(**given)  # type: ignore[arg-type]
    found = drain(consumer, limit=7)
    consumer.close()
    return found


def ids(log: EventLog, **given: object) -> list[str]:
    return [record.event.id for record in read(log, **given)]


def related(count: int) -> list[FeedbackGiven]:
    """Events of one key, whose order is kept."""
    return [FeedbackGiven(prediction_id="0" * 32, correct=True, comment=str(number)) for number in range(count)]


def test_events_come_back_as_they_were(log: EventLog) -> None:
    events = {event.id: event for event in (prediction(input=str(number)) for number in range(20))}
    log.append(list(events.values()))
    assert {record.event.id: record.event for record in read(log)} == events


def test_events_of_one_key_come_back_in_order(log: EventLog) -> None:
    keys = [new_id() for _ in range(5)]
    for number in range(20):
        log.append([FeedbackGiven(prediction_id=key, correct=True, comment=str(number)) for key in keys])
    for key in keys:
        found = [event for _, _, event in read(log) if isinstance(event, FeedbackGiven) and event.key == key]
        assert [event.comment for event in found] == [str(number) for number in range(20)]


def test_what_state_is_folded_from_has_one_order(log: EventLog) -> None:
    """Over all kinds: an outcome never comes before what asked for it."""
    events: list[Event] = []
    for _ in range(5):
        request = RetrainingRequested(reasons=("because",), new_labels=0)
        events += [request, CandidateRefused(request_id=request.id, reason="none better")]
        events += [ReleaseChanged(replaces=0, production="v1", who="me", why="test")]
    for event in events:
        log.append([event])
    assert ids(log, kinds=[ReleaseChanged, CandidateRefused, RetrainingRequested]) == [event.id for event in events]


def test_offsets_rise_within_a_stream(log: EventLog) -> None:
    log.append([prediction() for _ in range(20)])
    records = read(log)
    assert all(a.offset < b.offset for a, b in itertools.pairwise(records) if a.stream == b.stream)


def test_an_event_is_in_the_log_once_however_often_it_is_appended(log: EventLog) -> None:
    event = prediction()
    log.append([event, event])
    log.append([event])
    assert ids(log) == [event.id]


def test_a_consumer_gets_only_its_kinds(log: EventLog) -> None:
    change = ReleaseChanged(replaces=0, production="v1", who="me", why="test")
    log.append([prediction(), change, prediction()])
    assert ids(log, kinds=[ReleaseChanged]) == [change.id]
    assert len(ids(log, kinds=[ReleaseChanged, PredictionMade])) == 3


def test_a_named_consumer_goes_on_after_its_commit(log: EventLog) -> None:
    events = related(5)
    log.append(events)
    log.flush(PATIENCE)
    consumer = log.consumer("reader")
    consumer.poll(limit=2)
    consumer.commit()
    consumer.poll(limit=2)  # polled, not committed: to be seen again
    assert ids(log, name="reader") == [event.id for event in events[2:]]


def test_consumers_do_not_share_their_place(log: EventLog) -> None:
    log.append([prediction()])
    log.flush(PATIENCE)
    first = log.consumer("first")
    first.poll()
    first.commit()
    assert len(ids(log, name="second")) == 1


def test_a_consumer_starts_where_it_is_told(log: EventLog) -> None:
    log.append(related(5))
    third = read(log)[2]
    assert len(ids(log, start={third.stream: third.offset})) == 2


def test_a_stream_that_the_start_does_not_name_is_read_from_the_beginning(log: EventLog) -> None:
    log.append([prediction()])
    consumer = log.consumer("reader")
    consumer.poll()
    consumer.commit()
    assert len(ids(log, name="reader", start={})) == 1


def test_a_consumer_waits_at_the_end_for_what_comes(log: EventLog) -> None:
    consumer = log.consumer()
    assert consumer.poll() == []
    log.append([prediction()])
    log.flush(PATIENCE)
    assert len(consumer.poll()) == 1
    assert consumer.poll() == []


def test_lag_counts_what_is_left(log: EventLog) -> None:
    log.append(related(5))
    log.flush(PATIENCE)
    consumer = log.consumer(kinds=[FeedbackGiven])
    assert consumer.lag() == 5
    consumer.poll(limit=3)
    assert consumer.lag() == 2


def test_another_opening_of_the_log_sees_the_same(log: EventLog, url: str) -> None:
    log.append([prediction()])
    other = open_log(url)
    assert ids(other) == ids(log)
    other.close()


def test_threads_may_write_and_read_at_once(log: EventLog) -> None:
    def write(_: int) -> None:
        for _ in range(25):
            log.append([prediction()])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(ids(log))) == len(ids(log)) == 200


def test_a_reader_beside_writers_misses_nothing(log: EventLog) -> None:
    """Offsets become visible in order: a reader never passes over one that is committed later."""
    done = threading.Event()

    def write() -> None:
        for _ in range(100):
            log.append([prediction()])

    def read() -> list[str]:
        consumer, found = log.consumer(), []
        while True:
            last = done.is_set()
            records = consumer.poll()
            found += [record.event.id for record in records]
            if last and not records:
                consumer.close()
                return found

    with ThreadPoolExecutor(4) as pool:
        reader = pool.submit(read)
        for writer in [pool.submit(write) for _ in range(3)]:
            writer.result()
        log.flush(PATIENCE)
        done.set()
        assert sorted(reader.result()) == sorted(ids(log))
        assert len(ids(log)) == 300


def test_closing_twice_is_safe(url: str) -> None:
    log = open_log(url)
    log.close()
    log.close()


WRITER = """
import sys
from regraft.eventlog import open_log
from regraft.events import FeedbackGiven
log = open_log(sys.argv[1])
while True:
    events = [FeedbackGiven(prediction_id="0" * 32, correct=True) for _ in range(3)]
    log.append(events)
    print(*(event.id for event in events), flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged_and_leaves_no_half_batch(log: EventLog, url: str) -> None:
    acknowledged: list[str] = []
    for batches in (1, 5, 20):
        with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged += [i for _ in range(batches) for i in writer.stdout.readline().split()]
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += writer.stdout.read().split()[: -1 or None]
    found = ids(log, kinds=[FeedbackGiven])
    lost, doubled = set(acknowledged) - set(found), len(found) - len(set(found))
    print(f"acknowledged {len(acknowledged)}, found {len(found)}, lost {len(lost)}, doubled {doubled}")
    assert not lost
    assert not doubled
    assert len(found) % 3 == 0


def test_many_processes_may_open_a_new_log_at_once(url: str) -> None:
    script = "import sys; from regraft.eventlog import open_log; open_log(sys.argv[1]).append([])"
    processes = [subprocess.Popen([sys.executable, "-c", script, url]) for _ in range(6)]
    assert [process.wait() for process in processes] == [0] * 6


@pytest.mark.parametrize("address", ["redis://here", "sqlite:", "sqlite:///", "/plain/path", "kafka:here"])
def test_an_unknown_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="no event log backend"):
        open_log(address)
