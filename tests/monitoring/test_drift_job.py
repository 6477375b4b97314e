import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from monitoring import drift_job
from monitoring.descriptors import NAMES, drift_columns, text_facts
from monitoring.drift import DriftResult
from monitoring.drift_window import Reports
from regraft.errors import DataError, NotFound
from regraft.events import DriftMeasured
from tests.monitoring.stage import Stage, like_the_reference, now, prediction, reference


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, drift={"window": 300, "minimum": 100}) as stage:
        stage.version("v1", files={"reference.parquet": reference()})
        stage.append(*like_the_reference(200, seed=9, shift=3))  # of a time before the release
        stage.released("v1")
        yield stage


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Evidently, which takes seconds."""
    monkeypatch.setattr(drift_job, "render", _title)


def _title(_reference: drift_job.Columns, _current: drift_job.Columns, _result: DriftResult) -> str:
    return "<title>a report</title>"


def check(stage: Stage) -> DriftMeasured | None:
    stage.record()
    return drift_job.run(stage.log, stage.history, stage.store, Reports(stage.settings.history), stage.task.drift)


def run_as_process(stage: Stage) -> dict[str, str]:
    command = [sys.executable, "-m", "monitoring.drift_job"]
    environment = os.environ | stage.settings.as_environment()
    answer: dict[str, str] = json.loads(subprocess.check_output(command, env=environment, text=True))
    return answer


def checks(stage: Stage) -> list[str]:
    return [record.event.id for record in stage.log.consumer(kinds=[DriftMeasured]).poll()]


def after_release(stage: Stage, count: int, seed: int, shift: float = 0.0) -> None:
    later = timedelta(seconds=2 + seed)
    made = like_the_reference(count, seed, shift=shift)
    stage.append(*(one.model_copy(update={"at": one.at + later}) for one in made))


def test_a_window_like_the_reference_raises_no_alarm_and_its_report_needs_nothing_else(stage: Stage) -> None:
    after_release(stage, 300, seed=1)
    stage.record()
    answer = run_as_process(stage)
    (record,) = stage.log.consumer(kinds=[DriftMeasured]).poll()
    found = record.event
    assert isinstance(found, DriftMeasured)
    assert answer == {"check": found.id}
    assert not found.drifted
    assert (found.rows, found.reference_rows, found.version) == (300, 600, "v1")
    assert set(found.columns) >= {"characters", "feature_0", "feature_1", "label", "confidence"}
    html = Reports(stage.settings.history).read(found.id).decode()
    assert found.report == f"drift/{found.id}.html"
    assert "feature_1" in html
    assert "distance (KS, TV)" in html
    assert not re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//""", html)
    assert "url(http" not in html


@pytest.mark.usefixtures("quick")
def test_a_shifted_window_raises_an_alarm_that_names_its_columns(stage: Stage) -> None:
    after_release(stage, 300, seed=1, shift=0.7)
    found = check(stage)
    assert found
    assert found.drifted
    assert {name for name, column in found.columns.items() if column.drifted} == {"feature_0", "feature_1"}


@pytest.mark.usefixtures("quick")
def test_windows_do_not_overlap_and_repeating_the_job_measures_nothing_twice(stage: Stage) -> None:
    after_release(stage, 300, seed=1)
    first = check(stage)
    assert first
    assert check(stage) is None
    after_release(stage, 99, seed=2)
    assert check(stage) is None
    after_release(stage, 1, seed=3)
    second = check(stage)
    assert second
    assert (second.rows, first.window_end < second.window_start) == (100, True)
    assert checks(stage) == [first.id, second.id]


@pytest.mark.usefixtures("quick")
def test_a_job_killed_before_its_event_and_repeated_gives_one_event(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_release(stage, 300, seed=1)
    monkeypatch.setattr(stage.log, "append", _killed)
    with pytest.raises(KeyboardInterrupt):
        check(stage)
    monkeypatch.undo()
    monkeypatch.setattr(drift_job, "render", _title)
    assert checks(stage) == []
    found = check(stage)
    assert found
    assert checks(stage) == [found.id]
    assert [file.stem for file in Path(stage.history.root, "drift").iterdir()] == [found.id]


def _killed(_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("quick")
def test_the_window_is_the_newest_predictions_of_production(stage: Stage) -> None:
    after_release(stage, 400, seed=1)
    stage.append(prediction("v2", at=now() + timedelta(hours=1)))
    found = check(stage)
    assert found
    assert found.rows == 300
    with stage.history.connect() as connection:
        (row,) = connection.execute("SELECT max(happened_at) FROM predictions WHERE version = 'v1'").fetchall()
    assert found.window_end.replace(tzinfo=None) == row[0]


@pytest.mark.usefixtures("quick")
def test_a_redacted_input_counts_as_missing(stage: Stage) -> None:
    made = like_the_reference(200, 1)
    stage.append(*(one.model_copy(update={"input": None, "at": now()}) for one in made))
    found = check(stage)
    assert found
    assert {name for name, column in found.columns.items() if column.drifted} >= {"characters", "words"}


def test_too_few_predictions_or_no_release_are_no_check(stage: Stage, tmp_path: Path) -> None:
    assert check(stage) is None
    (tmp_path / "other").mkdir()
    with Stage(tmp_path / "other") as other:
        assert check(other) is None


def test_the_job_says_what_it_waits_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in stage.settings.as_environment().items():
        monkeypatch.setenv(name, value)
    drift_job.main()
    assert json.loads(capsys.readouterr().out) == {"waiting_for": "predictions that no check has seen yet"}


def test_a_version_without_reference_rows_cannot_be_checked(tmp_path: Path) -> None:
    with Stage(tmp_path, drift={"window": 300, "minimum": 100}) as stage:
        stage.version("v1")
        stage.released("v1")
        after_release(stage, 100, seed=1)
        with pytest.raises(DataError, match="no reference"):
            check(stage)


@pytest.mark.parametrize("name", ["../task", "..%2ftask", "x", "", "A" * 32, "0" * 32])
def test_only_reports_are_read(stage: Stage, name: str) -> None:
    with pytest.raises(NotFound):
        Reports(stage.settings.history).read(name)


def test_the_columns_are_flat_and_of_one_length() -> None:
    columns = drift_columns(
        names=NAMES["text"],
        facts=[text_facts("two words"), text_facts(None)],
        features=[[0.1, 0.2], [0.3, 0.4]],
        labels=["a", "b"],
        confidences=[0.5, 0.6],
    )
    assert {values.shape for values in columns.values()} == {(2,)}
    assert columns["words"][0] == 2
    assert np.isnan(columns["words"][1])
    assert columns["feature_1"].tolist() == [0.2, 0.4]
