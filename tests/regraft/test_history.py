import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from regraft.eventlog import Record
from regraft.events import Arm, Event, FeedbackGiven, PredictionMade, QueueReason, ReviewGiven, Shadow
from regraft.history import Disagreements, History

START = datetime(2026, 1, 1, tzinfo=UTC)


def prediction(
    version: str = "v1",
    label: str = "good",
    *,
    audit: float | None = 0.5,
    shadow: tuple[str, str] | None = None,
    at: datetime = START,
) -> PredictionMade:
    return PredictionMade(
        at=at,
        version=version,
        arm=Arm.PRODUCTION,
        generation=1,
        input="a text",
        label=label,
        confidence=0.8,
        probabilities=(0.8, 0.2),
        features=(0.1, 0.2),
        audit_probability=audit,
        shadow=Shadow(version=shadow[0], label=shadow[1], probabilities=(0.5, 0.5)) if shadow else None,
        latency_ms=1.0,
        metadata={"source": "test"},
    )


def review(of: PredictionMade, label: str) -> ReviewGiven:
    return ReviewGiven(prediction_id=of.id, label=label, reviewer="ann", reason=QueueReason.AUDIT, at=of.at)


def records(events: list[Event], first: int = 1, stream: str = "log") -> list[Record]:
    return [Record(stream, first + i, event) for i, event in enumerate(events)]


def count(history: History, table: str = "events") -> int:
    with history.connect() as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(str(tmp_path / "history"))


def test_an_empty_history_has_no_positions_and_empty_views(history: History) -> None:
    assert history.positions() == {}
    assert count(history, "outcomes") == 0


def test_the_names_of_the_files_say_how_far_each_stream_is_recorded(history: History) -> None:
    history.write(records([prediction(), prediction()], first=5))
    history.write(records([prediction()], first=9))
    history.write(records([prediction()], first=3, stream="topic-0"))
    history.write([])
    assert history.positions() == {"log": 9, "topic-0": 3}


def test_an_event_comes_back_as_it_was(history: History) -> None:
    made = prediction(shadow=("v2", "bad"))
    history.write(records([made]))
    with history.connect() as connection:
        row = connection.execute(
            "SELECT id, happened_at, probabilities, shadow_label, metadata['source'] FROM predictions"
        ).fetchall()[0]
    assert row == (made.id, START.replace(tzinfo=None), [pytest.approx(0.8), pytest.approx(0.2)], "bad", "test")


def test_times_are_kept_in_utc(history: History) -> None:
    east = datetime(2026, 1, 1, 5, tzinfo=UTC).astimezone(tz=None)
    history.write(records([prediction(at=east)]))
    with history.connect() as connection:
        assert connection.execute("SELECT happened_at FROM events").fetchall() == [(datetime(2026, 1, 1, 5),)]  # noqa: DTZ001


def test_an_outcome_joins_a_prediction_with_its_newest_review_and_its_flags(history: History) -> None:
    made, other = prediction(), prediction()
    flag = FeedbackGiven(prediction_id=made.id, correct=False)
    praise = FeedbackGiven(prediction_id=made.id, correct=True)
    first, second = (
        review(made, "bad").model_copy(update={"id": "1"}),
        review(made, "good").model_copy(update={"id": "2"}),
    )
    history.write(records([made, other, second, flag, first, praise]))
    with history.connect() as connection:
        rows = connection.execute("SELECT id, flagged, reviewed_label FROM outcomes ").fetchall()
    assert set(rows) == {(made.id, True, "good"), (other.id, False, None)}


def test_an_event_recorded_twice_counts_once(history: History) -> None:
    made = prediction()
    history.write(records([made, prediction()], first=1))
    history.write(records([made, prediction()], first=2))  # a second recorder, at another place
    assert count(history) == 3
    assert count(history, "outcomes") == 3


@pytest.mark.parametrize(
    ("answered_by", "label", "shadow", "truth", "expected"),
    [
        ("old", "good", ("new", "bad"), "bad", Disagreements(1, 0, 0)),
        ("old", "good", ("new", "bad"), "good", Disagreements(0, 1, 0)),
        ("old", "good", ("new", "bad"), "poor", Disagreements(0, 0, 1)),
        ("new", "bad", ("old", "good"), "bad", Disagreements(1, 0, 0)),
        ("new", "bad", ("old", "good"), "good", Disagreements(0, 1, 0)),
        ("old", "good", ("new", "good"), "good", Disagreements(0, 0, 0)),
        ("old", "good", ("third", "bad"), "bad", Disagreements(0, 0, 0)),
        ("old", "good", None, "bad", Disagreements(0, 0, 0)),
    ],
)
def test_a_reviewed_disagreement_is_won_by_who_alone_was_right(
    history: History,
    answered_by: str,
    label: str,
    shadow: tuple[str, str] | None,
    truth: str,
    expected: Disagreements,
) -> None:
    made = prediction(answered_by, label, shadow=shadow)
    history.write(records([made, review(made, truth)]))
    assert history.disagreements("old", "new", START) == expected


def test_disagreements_count_only_what_chance_drew_since_the_experiment_began(history: History) -> None:
    early = prediction("old", "good", shadow=("new", "bad"), at=START - timedelta(seconds=1))
    picked = prediction("old", "good", shadow=("new", "bad"), audit=None)
    unreviewed = prediction("old", "good", shadow=("new", "bad"))
    history.write(records([early, picked, unreviewed, review(early, "bad"), review(picked, "bad")]))
    assert history.disagreements("old", "new", START) == Disagreements(0, 0, 0)


def test_a_disagreement_counts_once_with_its_newest_review(history: History) -> None:
    made = prediction("old", "good", shadow=("new", "bad"))
    reviews = [review(made, label).model_copy(update={"id": f"{i}"}) for i, label in enumerate(["good", "bad"])]
    history.write(records([made, *reviews]))
    history.write(records([made, *reviews], first=2))
    assert history.disagreements("old", "new", START) == Disagreements(1, 0, 0)


def test_merging_keeps_every_event_and_the_positions(history: History) -> None:
    for i in range(40):
        history.write(records([prediction(), prediction()], first=1 + 2 * i))
    before = history.positions()
    assert history.merge(grace=timedelta(0)) == 40
    history.merge(grace=timedelta(0))
    assert len(history.parts()) == 1
    assert len(list(Path(history.root, "events").iterdir())) == 1
    assert history.positions() == before
    assert count(history) == 80


def test_merging_leaves_few_or_large_files_alone_and_bounds_what_it_makes(history: History) -> None:
    for i in range(10):
        history.write(records([prediction()], first=1 + i))
    assert history.merge() == 0
    assert history.merge(small=0, at_least=2) == 0
    assert history.merge(at_least=2, most=4) == 10
    assert [(part.first, part.last) for part in history.parts()] == [(1, 5), (6, 10)]


def test_merging_does_not_mix_streams(history: History) -> None:
    for i in range(4):
        history.write(records([prediction()], first=1 + i, stream=f"topic-{i % 2}"))
    history.merge(at_least=2)
    assert [(part.stream, part.first, part.last) for part in history.parts()] == [("topic-0", 1, 3), ("topic-1", 2, 4)]


def test_what_is_merged_stays_for_readers_that_began_before(history: History) -> None:
    for i in range(4):
        history.write(records([prediction()], first=1 + i))
    with history.connect() as connection:
        history.merge(at_least=2)
        history.merge(at_least=2)
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(4,)]
    assert count(history) == 4


def test_readers_see_every_event_while_files_are_written_and_merged(history: History) -> None:
    history.write(records([prediction()], first=1))
    done = threading.Event()
    shortfalls: list[tuple[int, int]] = []
    reads = [0]

    def read() -> None:
        while not done.is_set():
            at_least = history.positions()["log"]
            if (seen := count(history)) < at_least:
                shortfalls.append((seen, at_least))
            reads[0] += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    _write_and_merge(history, lambda i: prediction(), 60)
    done.set()
    for reader in readers:
        reader.join()
    assert reads[0] > 0
    assert shortfalls == []
    assert count(history) == 61


def _write_and_merge(history: History, make: Callable[[int], PredictionMade], files: int) -> None:
    for i in range(files):
        history.write(records([make(i)], first=2 + i))
        history.merge(at_least=4)


def test_files_from_before_there_were_numbers_are_read_beside_new_ones(history: History) -> None:
    history.write([Record("log", 1, prediction("p1"))])
    (old,) = Path(history.root, "events").glob("*.parquet")
    table = pq.read_table(old)
    pq.write_table(table.drop_columns(["low", "high"]), old)
    new = prediction("p2").model_copy(update={"interval": (1.0, 2.0)})
    history.write([Record("log", 2, new)])
    with history.connect() as connection:
        found = connection.execute("SELECT id, low, high FROM records ORDER BY log_offset").fetchall()
    assert [row[1:] for row in found] == [(None, None), (1.0, 2.0)]
    assert history.merge(at_least=2, grace=timedelta(0)) == 2
    (merged,) = Path(history.root, "events").glob("*-*2.parquet")
    assert pq.read_table(merged).column("high").to_pylist() == [None, 2.0]
