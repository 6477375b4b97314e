import multiprocessing
import random
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from monitoring.metrics import Metrics
from monitoring.recorder import Recorder
from regraft.eventlog import Record
from regraft.history import History
from tests.monitoring.stage import Stage, flag, now, prediction, record_forever

# Children are forked from a process that has all imported, so that they die at their work and not on the way to it.
FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def recorder(
    stage: Stage, *, history: History | None = None, retain: float = 7, metrics: Metrics | None = None
) -> Recorder:
    return Recorder(
        stage.log,
        history or stage.history,
        seconds=0.02,
        pause=0.005,
        retain=timedelta(days=retain),
        metrics=metrics or Metrics(),
    )


def recorded(history: History) -> list[str]:
    with history.connect() as connection:
        return [row[0] for row in connection.execute("SELECT id FROM records").fetchall()]


class FullHistory(History):
    """Takes nothing until `space` is set."""

    space = False

    def write(self, records: Sequence[Record]) -> None:
        if not self.space:
            raise OSError("no space left on device")
        super().write(records)


def test_every_event_of_every_kind_is_recorded(stage: Stage) -> None:
    made = prediction()
    stage.append(made, flag(made))
    stage.released("v1")
    assert recorder(stage).record(threading.Event()) == 3
    assert len(recorded(stage.history)) == 3


def test_a_new_recorder_goes_on_where_the_history_ends(stage: Stage) -> None:
    first, second = prediction(), prediction()
    stage.append(first)
    recorder(stage).record(threading.Event())
    stage.append(second)
    assert recorder(stage).record(threading.Event()) == 1
    assert recorded(stage.history) == [first.id, second.id]


def test_an_event_written_but_not_committed_is_not_written_again(stage: Stage) -> None:
    made = prediction()
    stage.append(made)
    stage.record()  # writes and commits nothing, as if killed between the two
    assert recorder(stage).record(threading.Event()) == 0
    assert recorded(stage.history) == [made.id]


def test_what_could_not_be_written_is_read_again(stage: Stage) -> None:
    history = FullHistory(stage.settings.history)
    one = recorder(stage, history=history)
    made = prediction()
    stage.append(made)
    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            one.record(threading.Event())
    history.space = True
    assert one.record(threading.Event()) == 1
    assert recorded(history) == [made.id]


def test_stopping_records_what_the_log_still_has(stage: Stage) -> None:
    stop = threading.Event()
    stop.set()
    stage.append(*(prediction() for _ in range(2_500)))
    recorder(stage).run(stop)
    assert len(recorded(stage.history)) == 2_500


def test_the_log_forgets_what_is_old_and_recorded(stage: Stage) -> None:
    stage.append(prediction(at=now() - timedelta(days=8)), prediction())
    one = recorder(stage)
    one.tidy()
    assert len(stage.log.consumer().poll()) == 2  # not recorded yet
    one.record(threading.Event())
    one.tidy()
    assert len(stage.log.consumer().poll()) == 1
    assert len(recorded(stage.history)) == 2


def test_what_was_recorded_is_counted_by_kind(stage: Stage) -> None:
    metrics = Metrics()
    made = prediction()
    stage.append(made, prediction(), flag(made))
    recorder(stage, metrics=metrics).record(threading.Event())
    lines = metrics.exposition().decode().splitlines()
    assert 'regraft_recorded_events_total{kind="prediction_made"} 2.0' in lines
    assert 'regraft_recorded_events_total{kind="feedback_given"} 1.0' in lines
    assert 'regraft_log_lag_events{consumer="recorder"} 0.0' in lines
    assert "regraft_history_write_seconds_count 1.0" in lines


def test_killed_again_and_again_while_events_arrive_it_records_each_exactly_once(stage: Stage) -> None:
    chance = random.Random(7)
    done = threading.Event()
    appended: list[str] = []
    writer = threading.Thread(target=_append_until, args=(stage, done, appended))
    writer.start()
    FORKS.set_forkserver_preload(["tests.monitoring.stage"])
    kills = 0
    while kills < 12 or (kills < 40 and not recorded(stage.history)):  # slow machines take longer to their first file
        kills += 1
        ready, says_ready = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=record_forever, args=(stage.settings.log, stage.settings.history, says_ready))
        process.start()
        ready.recv()
        process.join(chance.uniform(0.01, 0.5 + kills / 20))
        process.kill()
        process.join()
        for used in (process, ready, says_ready):
            used.close()
    done.set()
    writer.join()
    before = len(recorded(stage.history))
    recorder(stage).run(done)
    found = recorded(stage.history)
    lost, doubled = len(set(appended) - set(found)), len(found) - len(set(found))
    print(f"{kills} kills, {len(appended)} events, {before} before the last start: lost {lost}, doubled {doubled}")
    assert before > 0
    assert (lost, doubled) == (0, 0)


def _append_until(stage: Stage, done: threading.Event, appended: list[str]) -> None:
    while not done.is_set():
        events = [prediction() for _ in range(20)]
        stage.append(*events)
        appended += [event.id for event in events]
        done.wait(0.02)
