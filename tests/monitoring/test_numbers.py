"""A task that answers with numbers: live error, intervals, policy, queue, drift and the experiment's counts."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring import drift_job
from monitoring.drift_window import Reports
from monitoring.judge import Judge, Standing
from monitoring.metrics import Metrics
from monitoring.quality import Audits, audited_error
from monitoring.review import GivenLabel, ReviewDesk
from regraft.answers import Numbers
from regraft.errors import InvalidInput
from regraft.events import PredictionMade
from tests.fakes import tiny_version
from tests.monitoring.stage import Stage, now, prediction, review

RANGE = Numbers(minimum=0, maximum=100)
EVIDENTLYS = "ignore:Starting with pandas version 4.0:DeprecationWarning"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    rules = {"minimum_audits": 20, "new_labels": 10, "every": None, "on_drift": False}
    with Stage(tmp_path, kind="regression", range=RANGE.model_dump(), retraining=rules) as stage:
        for version in ("v1", "v2"):
            tiny_version(stage.settings.versions, version, numbers=RANGE, features=2, accuracy=1.0)
        stage.released("v1")
        yield stage


def number(value: float, *, half: float = 2.0, **options: Any) -> PredictionMade:
    made = prediction(label=f"{value:g}", **options)
    return made.model_copy(update={"probabilities": (), "interval": (value - half, value + half)})


def look(stage: Stage) -> Standing:
    stage.record()
    desk = ReviewDesk(stage.log, stage.history, stage.task)
    return Judge(stage.log, stage.history, stage.store, desk, stage.task).look(now())


def audited(stage: Stage, offs: list[float], **options: Any) -> None:
    for off in offs:
        made = number(50, audit=0.5, **options)
        stage.append(made, review(made, f"{50 + off:g}"))


def test_the_live_error_and_whether_intervals_hold_are_of_reviewed_audits(stage: Stage) -> None:
    audited(stage, [0, 1, -1, 4])
    stage.append(flagged := number(50), review(flagged, "99"))  # was not drawn, so it says nothing of the traffic
    (quality,) = look(stage).quality
    assert (quality.figure, quality.live.reviewed) == ("mae", 4)
    assert quality.live.value == pytest.approx(1.5)
    assert quality.live.low < 1.5 < quality.live.high
    assert quality.held is not None
    assert quality.held.value == pytest.approx(0.75)
    assert quality.validation == 1.0
    shown = quality.as_json()
    assert shown["mae"]["value"] == pytest.approx(1.5)
    assert {"validation_mae", "interval_coverage", "flag_rate"} <= shown.keys()
    assert not {"accuracy", "estimated_accuracy", "live", "held"} & shown.keys()


def test_metrics_of_numbers_are_their_own(stage: Stage) -> None:
    audited(stage, [1.0, -2.0])
    metrics = Metrics()
    metrics.show(look(stage), {})
    text = metrics.exposition().decode()
    assert 'regraft_live_error{version="v1"} 1.5' in text
    assert 'regraft_validation_error{version="v1"} 1.0' in text
    assert 'regraft_interval_coverage{version="v1"} 1.0' in text
    assert 'regraft_live_accuracy{version="v1"}' not in text


@pytest.mark.parametrize(
    ("off", "fires", "said"),
    [(1.0, False, "no rise of 5.3% that is sure to be one"), (1.08, True, "a rise of"), (3.0, True, "over 111% of it")],
)
def test_an_error_that_rose_for_sure_asks_for_retraining(stage: Stage, off: float, fires: bool, said: str) -> None:
    audited(stage, [off, -off] * 15)
    decision = look(stage).decision
    assert decision.request == fires
    sentences = [one.sentence for one in decision.reasons] + list(decision.quiet)
    assert any(said in one and "audited mean absolute error" in one for one in sentences), sentences


def test_a_reviewer_gives_a_number_within_the_range(stage: Stage) -> None:
    stage.append(made := number(50, audit=0.5))
    desk = ReviewDesk(stage.log, stage.history, stage.task)
    (given,) = desk.label([GivenLabel(made.id, "47.50", "ann")], now())
    assert given.label == "47.5"
    assert desk.label([GivenLabel(made.id, "47.5", "ann")], now()) == []
    for wrong, why in (("good", "'good' is no number"), ("101", "more than the maximum, 100"), ("nan", "no finite")):
        with pytest.raises(InvalidInput, match=why):
            desk.label([GivenLabel(made.id, wrong, "ann")], now())


def test_the_nearer_of_two_versions_wins(stage: Stage) -> None:
    release = stage.released("v1", "v2")
    assert release.experiment_since is not None
    for mine, other, truth in ((50, 40, 48), (50, 40, 41), (50, 40, 44), (50, 40, 45)):
        made = number(mine, audit=0.5, shadow=("v2", str(other)), at=release.experiment_since + timedelta(seconds=1))
        stage.append(made, review(made, str(truth), at=release.experiment_since + timedelta(seconds=2)))
    answered = prediction("v2", label="40", audit=0.5, shadow=("v1", "50"), at=now() + timedelta(seconds=1))
    stage.append(answered, review(answered, "50", at=now() + timedelta(seconds=2)))
    stage.record()
    error = stage.task.answers.error
    found = stage.history.disagreements("v1", "v2", release.experiment_since, error)
    assert found == (2, 2, 1)  # 41 and 44 are nearer to the candidate's 40, 45 is as far from both
    assert look(stage).disagreements == found


def drifting(stage: Stage, shift: float) -> bool:
    rng = np.random.default_rng(0)
    values = rng.normal(50, 5, 600)
    table = pa.table(
        {
            "input": ["a text"] * 600,
            "label": [f"{value:g}" for value in values],
            "confidence": rng.uniform(0.3, 0.6, 600),
            "features": rng.normal(size=(600, 2)).tolist(),
        }
    )
    folder = stage.settings.home / "reference"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "reference.parquet")
    content = (folder / "reference.parquet").read_bytes()
    tiny_version(stage.settings.versions, "v3", numbers=RANGE, features=2, files={"reference.parquet": content})
    stage.released("v3")
    start = now() + timedelta(milliseconds=1)
    for place, value in enumerate(rng.normal(50 + shift, 5, 400)):
        features = tuple(float(one) for one in rng.normal(size=2))
        confidence = float(rng.uniform(0.3, 0.6))
        at = start + timedelta(microseconds=place)
        stage.append(number(value, version="v3", features=features, confidence=confidence, at=at))
    stage.record()
    reports = Reports(stage.settings.history)
    check = drift_job.run(stage.log, stage.history, stage.store, reports, stage.task.drift, kind="regression")
    assert check is not None
    assert "value" in check.columns
    assert "label" not in check.columns
    assert [name for name, column in check.columns.items() if column.drifted] in ([], ["value"])
    assert check.report is not None
    assert json.loads(check.model_dump_json())["columns"]["value"]["statistic"] >= 0
    return check.columns["value"].drifted


@pytest.mark.filterwarnings(EVIDENTLYS)
def test_drift_of_the_numbers_answered_is_seen(stage: Stage) -> None:
    assert drifting(stage, shift=3.0)


def test_numbers_as_they_were_are_no_drift(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_job, "render", lambda *_: "")  # Evidently takes its time
    assert not drifting(stage, shift=0.0)


def errors(rng: np.random.Generator, rows: int) -> Audits:
    """Errors are flagged the more, the larger they are, and what is flagged is reviewed sooner."""
    off = rng.exponential(1.0, rows)
    probability = np.where(rng.random(rows) < 0.3, 1.0, 0.2)
    drawn = rng.random(rows) < probability
    flagged = rng.random(rows) < np.minimum(1, off / 4)
    seen = rng.random(rows) < np.where(flagged, 0.9, 0.4)
    return Audits(probability[drawn], flagged[drawn].astype(np.int64), seen[drawn], off[drawn])


@pytest.mark.parametrize(("rows", "least"), [(300, 0.90), (2000, 0.93)])
def test_the_interval_of_a_mean_error_covers_it_although_large_ones_are_flagged(rows: int, least: float) -> None:
    rng = np.random.default_rng(rows)
    found = [audited_error(errors(rng, rows)) for _ in range(400)]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert least <= covered <= 0.99, covered
    assert np.mean([one.value for one in found]) == pytest.approx(1.0, abs=0.03)


def test_a_stratum_that_nobody_looked_at_could_be_without_error_or_as_bad_as_the_worst() -> None:
    reviewed = np.array([True] * 6 + [False] * 6)
    known = Audits(np.full(12, 0.5), np.array([0] * 12), reviewed, np.array([1.0, 3.0] * 6))
    unknown = Audits(np.full(12, 0.5), np.array([0] * 6 + [2] * 6), reviewed, np.array([1.0, 3.0] * 6))
    assert (audited_error(known).value, audited_error(unknown).value) == pytest.approx((2, 2))
    assert audited_error(unknown).high - audited_error(known).high == pytest.approx(0.5)
    assert audited_error(unknown).collapsed == (2,)
    one = Audits(known.probability[:1], known.stratum[:1], reviewed[:1], known.outcome[:1])
    assert (audited_error(one).low, audited_error(one).high) == (0.0, np.inf)
