from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from regraft.eventlog import Record
from regraft.events import Arm, PredictionMade
from regraft.history import History
from training.conditions import OTHER, VALUES, in_production, in_training, shifts
from training.data import Row


def test_shares_that_differ_are_named_and_others_are_not() -> None:
    training = {"source": Counter(web=700, phone=280, shop=20), "month": Counter({"5": 500, "6": 500})}
    production = {"source": Counter(web=100, phone=43, shop=60), "month": Counter({"5": 101, "6": 99})}
    found = shifts(training, production)
    assert [(shift.condition, shift.value) for shift in found] == [("source", "shop"), ("source", "web")]
    assert str(found[0]).startswith("source 'shop': 2.0% of the training data, 29.6% of production (p = ")
    assert shifts(training, {"source": Counter(), "month": Counter()}) == []


def test_chance_is_seldom_named() -> None:
    """Holm's correction bounds the share of comparisons that name anything at all; Fisher's test keeps below it."""
    generator = np.random.default_rng(0)
    shares = np.full(6, 1 / 6)
    draws = [[Counter(dict(zip("abcdef", generator.multinomial(n, shares).tolist(), strict=True))) for n in (900, 300)] for _ in range(600)]  # fmt: skip  # noqa: E501
    alarms = sum(bool(shifts({"one": ours}, {"one": theirs})) for ours, theirs in draws)
    assert alarms <= 14  # 6 are expected at most; more than 14 come of 600 with a chance below 0.002


def test_many_rare_values_are_one() -> None:
    training = {"user": Counter({f"u{n}": 1 for n in range(1000)})}
    production = {"user": Counter({f"u{n}": 1 for n in range(1000, 1100)} | {"robot": 900})}
    found = shifts(training, production)
    assert found[0].value in {"robot", OTHER}
    assert len(found) <= VALUES + 1


def test_conditions_come_from_the_rows_and_from_the_metadata_of_requests(tmp_path: Path) -> None:
    rows = [Row(str(n), "text", "a", "", conditions={"source": ("web", "phone", "")[n % 3]}) for n in range(9)]
    assert in_training(rows, ["source"]) == {"source": Counter(web=3, phone=3)}
    history = History(str(tmp_path))
    assert in_production(history, ["source"]) == {"source": Counter()}
    said = [{"source": "web"}, {"source": "shop"}, {"source": "web"}, {"other": "web"}]
    history.write([Record("log", place, prediction(metadata)) for place, metadata in enumerate(said, start=1)])
    assert in_production(history, ["source", "month"]) == {"source": Counter(web=2, shop=1), "month": Counter()}


def prediction(metadata: dict[str, str]) -> PredictionMade:
    return PredictionMade(
        at=datetime(2026, 5, 1, tzinfo=UTC), version="v1", arm=Arm.PRODUCTION, generation=1, input="text", label="a",
        confidence=0.5, probabilities=(0.5, 0.5), features=(0.0,), latency_ms=1, metadata=metadata,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [[], [Row("1", "text", "a", "", conditions={"source": ""})]])
def test_a_condition_that_nothing_is_known_of_is_left_out(rows: list[Row]) -> None:
    assert shifts(in_training(rows, ["source"]), {"source": Counter(web=10)}) == []
