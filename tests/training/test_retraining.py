from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from regraft.answers import Labels
from regraft.errors import DataError
from regraft.eventlog import Record
from regraft.events import Arm, Event, PredictionMade, QueueReason, ReviewGiven
from regraft.history import History
from regraft.inputs import reference_of
from regraft.task import Task
from tests.images import file_of, picture
from tests.training.conftest import LABELS
from training.data import Parts, Row, same_text
from training.dataset import Dataset, read_dataset
from training.retraining import Material, assemble, compare_versions, frozen, objection, reviewed_rows, trained_on
from training.train import write_rows

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def row(text: str, label: str = "neutral") -> Row:
    return Row(f"id of {text}", text, label, "here")


def dataset(train: list[Row], validation: list[Row], test: list[Row]) -> Dataset:
    return Dataset(Parts(train, validation, test), [], {"split_sha256": "0", "labels": dict.fromkeys(LABELS, 1)})


ORIGINAL = dataset([row("a"), row("b")], [row("v")], [row("t")])


def test_the_newest_reviews_are_held_out_and_the_rest_joins_training() -> None:
    material = assemble(ORIGINAL, [row(f"r{n}") for n in range(10)], set(), 0.2, None)
    assert [one.input for one in material.newest] == ["r8", "r9"]
    assert [one.input for one in material.dataset.parts.train] == ["a", "b", *(f"r{n}" for n in range(8))]
    assert material.dataset.parts[1:] == ORIGINAL.parts[1:]
    assert material.dataset.card["reviewed"] == {"rows": 10, "trained_on": 8, "held_out": 2}


def test_no_text_of_the_test_the_validation_or_the_newest_part_is_trained_on() -> None:
    reviews = [row("T "), row("V"), row("New"), row("r"), *(row(f"x{n}") for n in range(14)), row("new"), row("other")]
    material = assemble(ORIGINAL, reviews, set(), 0.1, None)
    assert [one.input for one in material.newest] == ["new", "other"]
    trained = {same_text(one.input) for one in material.dataset.parts.train}
    assert "r" in trained
    assert not trained & {"t", "v", "new", "other"}


def test_the_newest_part_leaves_out_what_production_was_trained_on() -> None:
    material = assemble(ORIGINAL, [row("r1"), row("seen"), row("A"), row("fresh")], {"seen"}, 0.75, None)
    assert [one.input for one in material.newest] == ["fresh"]


def test_a_newer_label_replaces_the_older_one_of_the_same_text() -> None:
    reviews = [row("A", "positive"), row("c", "negative"), row("C", "positive"), row("last")]
    train = assemble(ORIGINAL, reviews, set(), 0.2, None).dataset.parts.train
    assert {same_text(one.input): one.label for one in train} == {"a": "positive", "b": "neutral", "c": "positive"}


def pictured(folder: Path, name: str, content: bytes) -> Row:
    (folder / name).write_bytes(content)
    return row(str(folder / name))._replace(content=reference_of(content))


def test_a_picture_that_comes_back_compressed_is_the_same(tmp_path: Path) -> None:
    train, validation, test = (pictured(tmp_path, f"{seed}.png", file_of(picture(seed))) for seed in range(3))
    again = [pictured(tmp_path, f"{seed}.jpg", file_of(picture(seed), "JPEG", quality=80)) for seed in range(4)]
    fresh = [pictured(tmp_path, f"{seed}.png", file_of(picture(seed))) for seed in (3, 4)]
    reviewed = [again[2], fresh[1], again[1], again[3], fresh[0], again[0]]
    original, gone = dataset([train], [validation], [test]), {"sha256:gone"}
    alike, exact = (assemble(original, reviewed, gone, 0.34, threshold) for threshold in (0.98, None))
    assert alike.newest == [fresh[0]]
    assert alike.dataset.parts.train == [train, fresh[1]]
    assert exact.newest == [fresh[0], again[0]]
    assert exact.dataset.parts.train == [train, again[2], fresh[1], again[1], again[3]]


def test_what_production_was_trained_on_is_read_from_its_rows(tmp_path: Path) -> None:
    assert trained_on(tmp_path) == set()
    write_rows(tmp_path / "rows.parquet", Parts([row("Train")], [row("tuned")], [row("test")]))
    assert trained_on(tmp_path) == {"train", "tuned"}


def test_a_run_keeps_the_data_that_it_began_with(tmp_path: Path) -> None:
    def must_not_be_called() -> Material:
        raise AssertionError

    file = tmp_path / "run" / "data.json"
    made = frozen(file, lambda: assemble(ORIGINAL, [row(f"r{n}") for n in range(10)], set(), 0.2, None))
    assert frozen(file, must_not_be_called) == made
    assert made.newest == [row("r8"), row("r9")]


def prediction(id_: str, text: str | None) -> PredictionMade:
    return PredictionMade(
        id=id_, at=NOON, version="v1", arm=Arm.PRODUCTION, generation=1, input=text, label="neutral", confidence=0.5,
        probabilities=(0.2, 0.5, 0.3), features=(0.0,), latency_ms=1,
    )  # fmt: skip


def review(number: int, prediction_id: str, label: str, minutes: int) -> ReviewGiven:
    at = NOON + timedelta(minutes=minutes)
    return ReviewGiven(
        id=f"{number:032x}", at=at, prediction_id=prediction_id, label=label, reviewer="r", reason=QueueReason.FLAG
    )


def test_reviewed_predictions_are_labelled_by_their_newest_review_until_the_request(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    events: list[Event] = [prediction(name, f"text {name}") for name in ("p1", "p2", "p3", "p4")]
    events += [prediction("redacted", None)]
    events += [review(1, "p1", "negative", 1), review(2, "p2", "neutral", 2), review(3, "p1", "positive", 3)]
    events += [
        review(4, "p2", "negative", 60),
        review(5, "p3", "no such label", 4),
        review(6, "redacted", "neutral", 5),
    ]
    history.write([Record("log", place, event) for place, event in enumerate(events, start=1)])
    found = reviewed_rows(history, NOON + timedelta(minutes=10), Labels(LABELS))
    assert [(one.id, one.input, one.label) for one in found] == [
        ("p2", "text p2", "neutral"),
        ("p1", "text p1", "positive"),
    ]
    assert found[0].place == f"review {2:032x}"


def evidence(original: float, newest: float) -> dict[str, Any]:
    parts = {"original_test": original, "newest": newest}
    found = {name: {"difference": {"accuracy": {"value": value}}} for name, value in parts.items()}
    return {"figure": "accuracy", "unit": 1.0, **found}


@pytest.mark.parametrize(
    ("original", "newest", "reason"),
    [
        (0.0, 0.1, None),
        (-0.02, 0.1, None),
        (-0.03, 0.1, "the candidate forgets: 0.030 of accuracy lost on the original test part, 0.020 is allowed"),
        (0.1, 0.0, "the candidate is no better on the newest labels: +0.000 of accuracy"),
    ],
)
def test_a_candidate_must_not_forget_and_must_be_better_on_the_newest(
    original: float, newest: float, reason: str | None
) -> None:
    assert objection(evidence(original, newest), 0.02) == reason


def test_too_few_new_labels_decide_nothing(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Labelled:
        answers = task.answers

    both: Any = (tmp_path, Labelled())
    material = Material(read_dataset(task), [row("new")])
    with pytest.raises(DataError, match="only 1 new labels could be held out to judge the candidate on, 20 are"):
        compare_versions(task, material, both, both)


def test_versions_with_other_labels_cannot_be_compared(task: Task, tmp_path: Path) -> None:
    class Other:
        answers = Labels(("x", "y"))

    class Same:
        answers = task.answers

    candidate, production = (tmp_path, Same()), (tmp_path, Other())
    with pytest.raises(DataError, match="other labels"):
        compare_versions(task, Material(read_dataset(task), []), candidate, production)  # type: ignore[arg-type]
