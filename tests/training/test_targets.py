"""A retraining for a slice that fails: its rows count for more."""

from pathlib import Path

import pytest

from regraft.errors import DataError
from training.data import Parts, Row
from training.dataset import Dataset
from training.retraining import TARGETED, Material, aimed, frozen


def material() -> Material:
    rows = [
        Row(str(number), f"text {number}", "good" if number % 2 else "bad", "here", conditions={"source": source})
        for number, source in enumerate(["phone", "phone", "web", "web"])
    ]
    return Material(Dataset(Parts(rows, [], []), [], {}), [])


@pytest.mark.parametrize(
    ("target", "rows"),
    [({"source": "web"}, {"2", "3"}), ({"source": "web", "label": "good"}, {"3"}), ({"label": "bad"}, {"0", "2"})],
)
def test_rows_that_meet_all_conditions_count_for_more(target: dict[str, str], rows: set[str]) -> None:
    dataset = aimed(material(), target).dataset
    assert dataset.weights == dict.fromkeys(rows, TARGETED)
    assert dataset.card["targeted"] == {"conditions": target, "rows": len(rows), "weight": TARGETED}


def test_without_a_target_all_rows_count_alike() -> None:
    assert aimed(material(), {}) == material()


def test_a_slice_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="no training row has source = fax"):
        aimed(material(), {"source": "fax"})


def test_weights_are_frozen_with_the_data(tmp_path: Path) -> None:
    kept = frozen(tmp_path / "data.json", lambda: aimed(material(), {"source": "web"}))
    assert kept == frozen(tmp_path / "data.json", material) == aimed(material(), {"source": "web"})
