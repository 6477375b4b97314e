"""Two versions side by side, on the test rows that both have.

reference.parquet of both -> rows in common -> paired differences; manifests and proofs -> the rest
"""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow.parquet as pq

from regraft.errors import ConfigError
from regraft.versions import Manifest, Metric
from training.evaluate import compare
from training.proof import Proof


class Beside(NamedTuple):
    """The other version; `gains` are this one's over it on `shared` test rows, None where they share none."""

    manifest: Manifest
    proof: Proof
    shared: int
    gains: dict[str, Metric] | None

    @classmethod
    def of(cls, this: tuple[Path, Manifest], other: tuple[Path, Manifest]) -> Self:
        """Raises ConfigError for versions of other labels, VersionRefused for one that has no proof."""
        labels = this[1].labels
        if set(labels) != set(other[1].labels):
            raise ConfigError(f"{this[1].version} and {other[1].version} know different labels")
        ours, theirs = _test_rows(this[0]), _test_rows(other[0])
        shared = [key for key in ours if key in theirs]
        places = {label: index for index, label in enumerate(labels)}
        truth = np.array([places[ours[key][1]] for key in shared], dtype=np.int64)
        first, second = (np.array([places[rows[key][0]] for key in shared], dtype=np.int64) for rows in (ours, theirs))
        options = {"resamples": this[1].training["settings"]["bootstrap"], "seed": 0}
        gains = compare(truth, first, second, labels, **options) if shared else None
        return cls(other[1], Proof.load(other[0]), len(shared), gains)


def _test_rows(folder: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """(id, input) -> (answer, truth)."""
    columns = ["id", "input", "part", "label", "true_label"]
    rows = pq.read_table(folder / "reference.parquet", columns=columns).to_pylist()
    return {(row["id"], row["input"]): (row["label"], row["true_label"]) for row in rows if row["part"] == "test"}
