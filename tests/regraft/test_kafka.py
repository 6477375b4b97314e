"""What the log on Kafka promises beyond what every log does: it outlives brokers and relays, and others can read it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import kafka as client
import pytest
from kafka.admin import KafkaAdminClient

from regraft import releases
from regraft.errors import ConfigError, Conflict, LogUnavailable
from regraft.eventlog import EventLog, SQLiteLog, open_log, relay
from regraft.eventlog.address import KafkaAddress
from regraft.eventlog.kafka import KafkaLog
from regraft.events import FeedbackGiven, PredictionMade, RetrainingRequested, decode
from regraft.ids import new_id
from regraft.releases import Release
from tests.brokers import Broker, free_port
from tests.regraft.test_eventlog import PATIENCE, drain, ids, related
from tests.regraft.test_events import prediction

pytestmark = pytest.mark.kafka


@pytest.fixture
def prefix() -> str:
    return f"regraft.{new_id()}"


@pytest.fixture
def url(kafka: Broker, prefix: str, tmp_path: Path) -> str:
    return f"kafka://{kafka.address}/{prefix}?local={tmp_path}/outbox.sqlite&partitions=2"


@pytest.fixture
def log(url: str) -> Iterator[KafkaLog]:
    with closing(opened(url)) as log:
        yield log


def opened(url: str) -> KafkaLog:
    log = open_log(url)
    assert isinstance(log, KafkaLog)
    return log


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def raw_records(kafka: Broker, topic: str) -> list[client.consumer.fetcher.ConsumerRecord]:
    """What a stranger's consumer sees."""
    consumer = client.KafkaConsumer(
        topic, bootstrap_servers=kafka.address, auto_offset_reset="earliest", consumer_timeout_ms=1_000
    )
    found = list(consumer)
    consumer.close()
    return found


def test_a_stranger_reads_cloud_events(log: KafkaLog, kafka: Broker, prefix: str) -> None:
    event = FeedbackGiven(prediction_id=new_id(), correct=False, comment="no")
    log.append([event])
    log.flush(PATIENCE)
    (record,) = raw_records(kafka, f"{prefix}.feedback_given")
    assert {name: value.decode() for name, value in record.headers} == {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_source": f"/{prefix.replace('.', '/')}",
        "ce_type": "regraft.feedback_given",
        "ce_time": event.at.isoformat(),
        "content-type": "application/json",
    }
    assert record.key == event.prediction_id.encode()
    assert json.loads(record.value)["comment"] == "no"


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed")
def test_kcat_reads_what_we_write(log: KafkaLog, kafka: Broker, prefix: str) -> None:
    event = prediction()
    log.append([event])
    log.flush(PATIENCE)
    command = ["kcat", "-C", "-b", kafka.address, "-t", f"{prefix}.prediction_made", "-e", "-q", "-f", "%k|%h|%s"]
    key, headers, body = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("|")
    assert (key, decode(body)) == (event.id, event)
    assert f"ce_id={event.id}" in headers.split(",")


def test_topics_are_made_as_stated(log: KafkaLog, kafka: Broker, prefix: str) -> None:
    log.consumer().lag()
    with KafkaAdminClient(bootstrap_servers=kafka.address) as admin:
        described = {t["name"]: len(t["partitions"]) for t in admin.describe_topics() if t["name"].startswith(prefix)}
    assert described == {
        f"{prefix}.prediction_made": 2,
        f"{prefix}.feedback_given": 2,
        f"{prefix}.review_given": 2,
        f"{prefix}.loop": 1,
    }


def test_a_loop_of_several_partitions_is_refused(kafka: Broker, prefix: str, url: str) -> None:
    with KafkaAdminClient(bootstrap_servers=kafka.address) as admin:
        admin.create_topics({f"{prefix}.loop": {"num_partitions": 3}}, wait_for_metadata=True)
    with closing(opened(url)) as log, pytest.raises(LogUnavailable, match="has 3 partitions and must have one"):
        log.consumer().poll()


def test_what_strangers_wrote_stops_nobody(log: KafkaLog, kafka: Broker, prefix: str) -> None:
    first, second = related(2)
    log.append([first])
    log.flush(PATIENCE)
    producer = client.KafkaProducer(bootstrap_servers=kafka.address)
    topic, key = f"{prefix}.feedback_given", first.key.encode()
    for headers in ([], [("ce_id", b"\xff")]):
        producer.send(topic, b"not JSON", key=key, headers=headers).get(PATIENCE)
    producer.send(topic, None, key=key).get(PATIENCE)
    producer.close()
    log.append([second])
    assert ids(log) == [first.id, second.id]


def test_an_event_too_large_for_kafka_is_set_aside_and_stops_nobody(log: KafkaLog, tmp_path: Path) -> None:
    large, small = prediction(input="x" * 2_000_000), prediction()
    log.append([large, small])
    assert ids(log) == [small.id]
    assert large.id in (tmp_path / "outbox.sqlite.refused.jsonl").read_text()


def test_with_durability_broker_an_event_is_there_when_append_returns(url: str) -> None:
    with closing(opened(f"{url}&durability=broker")) as log:
        events = related(3)
        log.append(events)
        assert [record.event for record in drain(log.consumer())] == events
        assert log.backlog().events == 0


def test_of_two_machines_that_change_the_release_one_wins(url: str, tmp_path: Path) -> None:
    """Each has a local log of its own."""
    logs = [opened(url.replace("outbox", f"outbox{number}")) for number in range(4)]
    releases.change(logs[0], Release(), Release(production="v0"), who="test", why="")
    before = releases.current(logs[1])

    def attempt(log: EventLog) -> bool:
        try:
            releases.change(log, before, releases.promote(before, new_id()), who="test", why="")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(attempt, logs))
    assert won.count(True) == 1
    assert len({releases.current(log) for log in logs}) == 1
    for log in logs:
        log.close()


def test_a_request_made_twice_is_seen_once_also_after_a_restart(log: KafkaLog) -> None:
    request = RetrainingRequested(reasons=("because",), new_labels=0)
    log.append([request])
    worker = log.consumer("worker", kinds=[RetrainingRequested])
    assert len(drain(worker)) == 1
    worker.commit()
    worker.close()
    log.append([request])
    assert drain(log.consumer("worker", kinds=[RetrainingRequested])) == []


def test_a_position_beyond_the_end_is_said(log: KafkaLog, prefix: str) -> None:
    log.append(related(1))
    with pytest.raises(LogUnavailable, match="this is another log"):
        log.consumer(start={f"{prefix}.feedback_given-0": 99}).poll()


def test_without_a_broker_the_log_takes_events_and_forwards_them_later(
    kafka: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft.eventlog.address.BOOTSTRAP_MS", 500)
    local = f"local={tmp_path}/outbox.sqlite"
    started = time.monotonic()
    away = opened(f"kafka://127.0.0.1:{free_port()}/{prefix}?{local}")
    events = related(10)
    away.append(events)
    assert time.monotonic() - started < 2
    assert away.backlog().events == 10
    with pytest.raises(LogUnavailable, match="not to be reached"):
        away.consumer().poll()
    with pytest.raises(LogUnavailable):
        releases.change(away, Release(), Release(production="v1"), who="test", why="")
    with pytest.raises(LogUnavailable, match="still wait"):
        away.flush(0.1)
    threads = threading.active_count()
    with pytest.raises(LogUnavailable, match="not to be reached"):
        away.consumer().poll()
    until(lambda: threading.active_count() <= threads)
    started = time.monotonic()
    away.close()
    assert time.monotonic() - started < 10
    monkeypatch.undo()
    with closing(opened(f"kafka://{kafka.address}/{prefix}?{local}")) as log:
        assert ids(log) == [event.id for event in events]


def test_two_relays_on_one_log_take_turns(url: str) -> None:
    first, second = opened(url), opened(url)
    events = related(50)
    for event in events:
        (first if event.comment and int(event.comment) % 2 else second).append([event])
    first.close()
    second.append([late := prediction()])
    assert sorted(ids(second)) == sorted([*(event.id for event in events), late.id])
    assert [r.event.id for r in drain(second.consumer(kinds=[FeedbackGiven]))] == [event.id for event in events]
    second.close()


def test_a_relay_that_cannot_commit_does_not_publish_again(
    log: KafkaLog, kafka: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(*_: object) -> None:
        tries.append(1)
        raise LogUnavailable("the disk is full")

    monkeypatch.setattr(relay, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(log._local, "commit", refuse)
    log.append(related(10))
    until(lambda: len(tries) > 3)
    monkeypatch.undo()
    log.flush(PATIENCE)
    assert len(raw_records(kafka, f"{prefix}.feedback_given")) == 10


def test_a_relay_whose_folder_cannot_be_made_says_so_and_tries_again(
    kafka: Broker, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("a file in the way")
    with closing(opened(f"kafka://{kafka.address}/{prefix}?local={tmp_path}/home/outbox.sqlite")) as log:
        with pytest.raises(LogUnavailable, match="cannot be opened"):
            log.append([prediction()])
        until(lambda: "the relay's lease" in caplog.text)
        (tmp_path / "home").unlink()
        log.append([event := prediction()])
        assert ids(log) == [event.id]


def test_what_was_forwarded_is_forgotten_on_this_machine(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "TIDY_SECONDS", 0.0)
    monkeypatch.setattr(relay, "KEEP", timedelta(0))
    with closing(opened(url)) as log, closing(SQLiteLog(tmp_path / "outbox.sqlite")) as local:
        events = related(10)
        log.append(events)
        until(lambda: local.end() == 0)
        assert ids(log) == [event.id for event in events]


def test_a_relay_may_be_a_process_of_its_own(url: str, tmp_path: Path) -> None:
    local = SQLiteLog(tmp_path / "outbox.sqlite")
    local.append(related(10))
    command, environment = [sys.executable, "-m", "regraft.eventlog.relay"], os.environ | {"REGRAFT_LOG_URL": url}
    with subprocess.Popen(command, env=environment) as process:
        until(lambda: local.committed(relay.NAME) == local.end())
        process.terminate()
        assert process.wait() == 0
    local.close()
    done = subprocess.run(command, env=environment | {"REGRAFT_LOG_URL": ""}, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


RELAY = """
import sys
from regraft.eventlog import relay
relay.BATCH = 100
from regraft.eventlog import open_log
log = open_log(sys.argv[1])
print("up", flush=True)
sys.stdin.read()
"""


def test_a_relay_killed_in_mid_batch_loses_and_doubles_nothing(url: str, kafka: Broker, prefix: str) -> None:
    killed = 0
    keys = [new_id() for _ in range(20)]
    events = [FeedbackGiven(prediction_id=keys[n % 20], correct=True, comment=str(n)) for n in range(4_000)]
    with closing(opened(url.replace("outbox", "other"))) as reading:
        consumer = reading.consumer()
        found = drain(consumer)
        for part in range(4):
            command = [sys.executable, "-c", RELAY, url]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
                assert other.stdout is not None
                other.stdout.readline()
                with closing(opened(url)) as log:
                    before, last = len(found), events[part * 1_000 : part * 1_000 + 1_000]
                    log.append(last)
                    while len(found) < before + 100:
                        found += consumer.poll()
                    killed += log.backlog().events > 0
                    os.kill(other.pid, signal.SIGKILL)
        with closing(opened(url)) as log:
            log.flush(PATIENCE)
        found += drain(consumer)
    seen = [record.event.id for record in found]
    written = len(raw_records(kafka, f"{prefix}.feedback_given"))
    lost, doubled = {event.id for event in events} - set(seen), len(seen) - len(set(seen))
    counts = f"{len(events)} appended, {written} in Kafka, lost {len(lost)}, doubled {doubled}"
    print(f"{killed} of 4 kills in mid-work: {counts}")
    assert not lost
    assert not doubled
    for key in keys:
        ordered = [record.event for record in found if record.event.key == key]
        assert ordered == [event for event in events if event.key == key]


def test_a_broker_killed_while_others_write_loses_and_doubles_nothing(url: str, kafka: Broker) -> None:
    stop = threading.Event()
    appended: list[PredictionMade] = []
    slowest = 0.0

    def write(log: EventLog) -> None:
        nonlocal slowest
        while not stop.is_set():
            events = [prediction() for _ in range(5)]
            started = time.monotonic()
            log.append(events)
            slowest = max(slowest, time.monotonic() - started)
            appended.extend(events)
            time.sleep(0.005)

    with closing(opened(url)) as log, ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write, log)
        consumer = log.consumer(kinds=[PredictionMade])
        found = []
        try:
            until(lambda: len(appended) > 200)
            found += drain(consumer)
            kafka.kill()
            count = len(appended)
            until(lambda: len(appended) > count + 300)
        finally:
            kafka.start()
            stop.set()
        writer.result()
        log.flush(60)
        found += drain(consumer)
        again = ids(log)
    seen = [record.event.id for record in found]
    lost, doubled = {event.id for event in appended} - set(seen), len(seen) - len(set(seen))
    print(f"appended {len(appended)}, lost {len(lost)}, doubled {doubled}, slowest append {slowest:.3f} s")
    assert not lost
    assert not doubled
    assert sorted(again) == sorted(seen)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("kafka://host:9092", "address like"),
        ("kafka:///regraft.reviews", "address like"),
        ("kafka://me:secret@host/regraft.reviews", "password_file"),
        ("kafka://host/regraft.reviews?local=x&retries=3", "no option retries"),
        ("kafka://host/regraft.reviews?local=x&partitions=none", "partitions"),
        ("kafka://host/regraft.reviews", "local"),
        ("kafka://host/a b?local=x", "prefix"),
    ],
)
def test_a_wrong_address_is_said(address: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        KafkaAddress.parse(address)


def test_the_password_stays_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    url = f"kafka://a:1,b:2/regraft.reviews?local=x&security=SASL_SSL&username=me&password_file={tmp_path}/password"
    address = KafkaAddress.parse(url)
    assert address.client_options()["sasl_plain_password"] == "secret"
    assert address.client_options()["bootstrap_servers"] == ["a:1", "b:2"]
    assert "secret" not in repr(address)
    (tmp_path / "password").unlink()
    with pytest.raises(ConfigError, match="password file"):
        address.client_options()
