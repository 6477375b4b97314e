"""One drift check, as a process of its own: Evidently's 280 MiB and 4 seconds of import never sit in the monitor.

1. find the window: the newest predictions of production that no check has seen
2. test it against the version's reference rows; the event's id follows from version and window
3. save Evidently's report, with our distances and thresholds in it
4. append DriftMeasured

Killed before 4, the check is done again, on a window that may have grown; killed after, the next window begins where
this one ended. So no window is judged twice. Prints `{"check": id}` or `{"waiting_for": sentence}`.
"""

import json
import logging
import math
import os
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monitoring.descriptors import CATEGORICAL, NAMES, drift_columns, image_facts, text_facts
from monitoring.drift import DriftResult, drift_test
from monitoring.drift_window import Reports, Window, fresh
from monitoring.loop import LoopFollower, LoopState
from regraft.answers import Kind
from regraft.errors import DataError
from regraft.eventlog import EventLog, open_log
from regraft.events import ColumnDrift, DriftMeasured
from regraft.history import History
from regraft.inputs import InputStore
from regraft.sections import Drift
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import VersionStore

LOGGER = logging.getLogger(__name__)
REFERENCE = "reference.parquet"
Columns = Mapping[str, NDArray[Any]]


def main() -> None:
    settings = Settings.read()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log, task = open_log(settings.log), Task.load(settings.task)
    inputs = InputStore(settings.inputs) if task.input == "image" else None
    history, reports = History(settings.history), Reports(settings.history)
    check = run(log, history, VersionStore(settings.versions), reports, task.drift, inputs, task.kind)
    answer = {"check": check.id} if check else {"waiting_for": "predictions that no check has seen yet"}
    json.dump(answer, sys.stdout)


def run(
    log: EventLog,
    history: History,
    store: VersionStore,
    reports: Reports,
    rules: Drift,
    inputs: InputStore | None = None,
    kind: Kind = "classification",
) -> DriftMeasured | None:
    """None when production has too few fresh predictions, or there is no production yet; `inputs` is where the images
    of an image task are. Raises DataError, NotFound or VersionRefused when there is no reference to compare with."""
    state = LoopFollower(log).refresh()
    version = state.release.production
    window = _window(history, state, rules)  # 1
    if window is None or version is None:
        return None
    check_id = uuid.uuid5(uuid.NAMESPACE_OID, f"regraft drift {version} {window.end.isoformat()}").hex
    reference, current = _reference(store.fetch(version) / REFERENCE, kind), _current(window, inputs, kind)
    rng = np.random.default_rng(uuid.UUID(check_id).int)  # the same check again gives the same result
    named = [name for name in CATEGORICAL if name in reference]
    result = drift_test(reference, current, rng=rng, alpha=rules.alpha, categorical=named)  # 2
    report = reports.save(check_id, render(reference, current, result))  # 3
    check = DriftMeasured(
        id=check_id,
        version=version,
        window_start=window.start,
        window_end=window.end,
        rows=len(window.rows),
        reference_rows=len(reference["confidence"]),
        alpha=result.alpha,
        p_value=1.0 if math.isnan(result.p_value) else result.p_value,
        drifted=result.drifted,
        columns={
            name: ColumnDrift(statistic=column.statistic, threshold=_bound(column.threshold), drifted=column.drifted)
            for name, column in result.columns.items()
        },
        report=report,
    )
    log.append([check])  # 4
    return check


def render(reference: Columns, current: Columns, result: DriftResult) -> str:
    """Evidently's report of the columns, self-contained HTML. The distances, thresholds and what drifted are ours."""
    os.environ["DO_NOT_TRACK"] = "1"
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.calculations.stattests import StatTest
    from evidently.legacy.calculations.stattests.registry import register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    method = StatTest(
        name="regraft_distance",
        display_name="distance (KS, TV)",
        allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
    )
    register_stattest(method, _Measured(result))
    categorical = [name for name in reference if result.columns[name].kind == "categorical"]
    numeric = [name for name in reference if name not in categorical]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    before, after = (
        Dataset.from_pandas(pd.DataFrame(dict(side)), data_definition=definition) for side in (reference, current)
    )
    preset = DataDriftPreset(
        method=method.name,
        per_column_threshold={name: _bound(column.threshold) for name, column in result.columns.items()},
        drift_share=0.5 / len(reference),  # one column is enough: the rate of false alarms is that of all together
    )
    with np.errstate(invalid="ignore", divide="ignore"):  # the correlations of a column that never varies
        snapshot = Report([preset, DataSummaryPreset()]).run(after, before)
        return str(snapshot.get_html_str(as_iframe=False))


class _Measured:
    """What `drift_test` found, in the form in which Evidently asks for it column by column."""

    def __init__(self, result: DriftResult) -> None:
        self._columns = result.columns

    def __call__(self, _reference: Any, current: Any, _type: object, _threshold: float) -> tuple[float, bool]:
        column = self._columns[current.name]
        return column.statistic, column.drifted


def _window(history: History, state: LoopState, rules: Drift) -> Window | None:
    if state.release.production is None:
        return None
    with history.connect() as connection:
        return fresh(connection, state, rules, datetime.now(UTC))


def _reference(path: Path, kind: Kind) -> Columns:
    if not path.is_file():
        raise DataError(f"the version has no {REFERENCE}, so there is nothing to compare its predictions with")
    there = pq.read_schema(path).names
    described = "facts" if "facts" in there else "input"  # texts are there themselves
    rows = pq.read_table(path, columns=[described, "features", "label", "confidence"]).to_pydict()
    return drift_columns(
        names=NAMES["image" if described == "facts" else "text"],
        facts=[dict(one) for one in rows["facts"]] if described == "facts" else list(map(text_facts, rows["input"])),
        features=rows["features"],
        labels=rows["label"],
        confidences=rows["confidence"],
        kind=kind,
    )


def _current(window: Window, inputs: InputStore | None, kind: Kind) -> Columns:
    given = [row["input"] for row in window.rows]
    return drift_columns(
        names=NAMES["image" if inputs else "text"],
        facts=[image_facts(one, inputs) if inputs else text_facts(one) for one in given],
        features=[row["features"] for row in window.rows],
        labels=[row["label"] for row in window.rows],
        confidences=[row["confidence"] for row in window.rows],
        kind=kind,
    )


def _bound(threshold: float) -> float:
    """A column that was not tested because it never varies has no threshold; any distance is below 1."""
    return 1.0 if math.isnan(threshold) else threshold


if __name__ == "__main__":
    main()
