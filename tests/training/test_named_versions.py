"""Who names a version was put on no arm by lot, and counts for none."""

from pathlib import Path

import pytest

from regraft.eventlog import Record
from regraft.events import NAMED_VERSION, Arm, PredictionMade
from regraft.history import History
from regraft.ids import new_id
from regraft.releases import Release
from training.experiment import _mismatch

RELEASE = Release(generation=1, production="v1", candidate="v2", share=0.5)


def prediction(arm: Arm, metadata: dict[str, str]) -> PredictionMade:
    return PredictionMade(
        version="v1" if arm is Arm.PRODUCTION else "v2",
        arm=arm,
        generation=1,
        subject=new_id(),
        input="a text",
        label="good",
        confidence=0.8,
        probabilities=(0.8, 0.2),
        features=(0.1, 0.2),
        latency_ms=1.0,
        metadata=metadata,
    )


@pytest.mark.parametrize(
    ("metadata", "mismatch"), [({NAMED_VERSION: "v2"}, False), ({"source": "x"}, True), ({}, True)]
)
def test_named_versions_are_no_sample_ratio_mismatch(tmp_path: Path, metadata: dict[str, str], mismatch: bool) -> None:
    history = History(str(tmp_path / "history"))
    by_lot = [prediction(arm, {}) for arm in Arm for _ in range(100)]
    events = [*by_lot, *(prediction(Arm.CANDIDATE, metadata) for _ in range(300))]
    history.write([Record("log", offset, event) for offset, event in enumerate(events)])
    assert (_mismatch(history, RELEASE) is not None) == mismatch
