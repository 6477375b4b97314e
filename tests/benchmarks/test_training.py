"""What the training benchmark reckons, what it keeps, and that ours runs as the benchmark asks it to."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.training import measure
from benchmarks.training.contenders import CONTENDERS, Contender
from benchmarks.training.figures import Row, against, over_seeds, reached, show, show_against, show_scratch
from benchmarks.training.material import DATA, DataSet
from benchmarks.training.measure import Bench, Journal
from benchmarks.training.memory import Peaks
from benchmarks.training.recipes.job import Examples, Job
from tests.training.conftest import LABELS, examples, save_backbone

OURS = Row(
    recipe="regraft",
    data="amazon",
    seed=0,
    seconds=10.0,
    accuracy=0.75,
    macro_f1=0.7,
    cpu_seconds=16.0,
    validation_macro_f1=0.7,
    rate=None,
    curve=[0.5, 0.7],
    moments=[0.5, 1.0],
    truth=[0, 1, 0, 1] * 50,
    answers=[0, 1, 0, 0] * 50,
)
THEIRS = replace(OURS, recipe="trainer", seconds=60.0, cpu_seconds=112.0, answers=[0, 1, 1, 0] * 50, accuracy=0.5)


def test_ours_is_held_against_others_seed_by_seed() -> None:
    rows = [OURS, replace(OURS, seed=1), THEIRS, replace(THEIRS, seed=1, seconds=80.0), replace(THEIRS, seed=2)]
    (found,) = against(rows)
    assert (found.recipe, found.seeds, found.times, found.cpu_times) == ("trainer", (0, 1), [6.0, 8.0], [7.0, 7.0])
    assert found.accuracy.value == pytest.approx(0.25)
    assert found.accuracy.low < 0.25 < found.accuracy.high
    assert found.accuracy_over_seeds == pytest.approx((0.25, 0.25))


def test_the_interval_over_seeds_is_students() -> None:
    assert over_seeds([0.01, 0.02, 0.03]) == pytest.approx((0.02 - 0.0248, 0.02 + 0.0248), abs=1e-4)
    assert over_seeds([0.01]) is None


def test_the_tables_have_a_line_for_each_recipe_on_each_data_set() -> None:
    assert [*show([OURS, THEIRS, replace(THEIRS, seed=1)])][3] == (
        "| amazon | trainer |  | 0,1 | 60.0 | 112.0 | 0.500 | 0.700 |"
    )
    (_, _, line) = show_against([OURS, THEIRS])
    assert line.startswith("| trainer | amazon | 0 | 6.0 | 7.0 | +0.250 (+0.1")


def test_scratch_is_held_against_the_first_moment_at_which_ours_was_as_good() -> None:
    scratch = replace(OURS, recipe="from scratch", cpu_seconds=400.0, curve=[0.3, 0.5, 0.4], moments=[0.25, 0.5, 1.0])
    assert (reached(OURS, 0.5), reached(OURS, 0.51), reached(OURS, 0.8)) == (8.0, 16.0, None)
    watched = replace(OURS, recipe="regraft, watched")
    assert [*show_scratch([watched, scratch])][2] == "| amazon | 0 | 0.500 | 200 | 8 | 4.0% |"
    assert [*against([OURS, watched, scratch])] == []


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, float | None]]:
    """In the place of running recipes; of the rates the one in the middle validates best."""
    seen: list[tuple[str, int, float | None]] = []

    def run(contender: Contender, data: DataSet, seed: int, rate: float | None) -> Row:
        seen.append((contender.name, seed, rate))
        reached = 1 - abs((rate or 0) - 5e-5)
        return replace(OURS, recipe=contender.name, data=data.name, seed=seed, rate=rate, validation_macro_f1=reached)

    monkeypatch.setattr(measure, "run", run)
    return seen


def test_rates_are_tried_on_one_seed_and_what_was_measured_is_not_measured_again(
    tmp_path: Path, ran: list[tuple[str, int, float | None]]
) -> None:
    trainer, amazon = next(one for one in CONTENDERS if one.name == "trainer"), DATA["amazon"]
    for _ in range(2):  # the second time all of it is in the files
        bench = Bench(Journal(tmp_path / "rows.jsonl"), Journal(tmp_path / "tried.jsonl"), tuned_on=0)
        for seed in (0, 1):
            bench.measure(trainer, amazon, seed)
        assert ran == [("trainer", 0, 2e-5), ("trainer", 0, 5e-5), ("trainer", 0, 1e-4), ("trainer", 1, 5e-5)]
    written = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["rate"]) for row in written] == [(0, 5e-5), (1, 5e-5)]
    assert {"recipe", "data", "seed", "seconds", "accuracy", "macro_f1"} <= set(written[0])


def test_ours_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    backbone = str(save_backbone(tmp_path / "backbone"))
    rows = [(text, LABELS.index(label)) for _, text, label in examples(150)]
    train, validation, test = (
        Examples([text for text, _ in part], [label for _, label in part])
        for part in (rows[:90], rows[90:120], rows[120:])
    )
    job = Job("text", backbone, 3, train, validation, test, max_tokens=32, seed=0, rate=1e-2, threads=1)
    outcome = CONTENDERS[0].run(job)
    assert len(outcome.answers.test) == 30
    assert outcome.seconds > 0 < outcome.cpu_seconds
    assert len(outcome.answers.curve) == len(outcome.answers.moments) > 0
    assert sorted(outcome.answers.moments) == outcome.answers.moments
    assert 0 < outcome.answers.moments[0] < outcome.answers.moments[-1] <= 1


def test_peaks_are_those_of_the_largest_moment() -> None:
    peaks = Peaks()
    peaks.look(os.getpid())
    assert 0 < peaks.anonymous <= peaks.resident
    before = asdict(peaks)
    peaks.look(2**22 + 1)  # no such process: it has just ended
    assert asdict(peaks) == before
