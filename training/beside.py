"""Two versions side by side, on the test rows that both have.

reference.parquet of both -> rows in common -> paired differences; manifests and proofs -> the rest
"""

from pathlib import Path
from typing import NamedTuple, Self

import pyarrow.parquet as pq

from regraft.errors import ConfigError
from regraft.versions import Manifest, Metric
from training.proof import Proof
from training.targets import target_for


class Beside(NamedTuple):
    """The other version; `gains` are this one's over it on `shared` test rows, None where they share none."""

    manifest: Manifest
    proof: Proof
    shared: int
    gains: dict[str, Metric] | None

    @classmethod
    def of(cls, this: tuple[Path, Manifest], other: tuple[Path, Manifest]) -> Self:
        """Raises ConfigError for versions of other labels, VersionRefused for one that has no proof."""
        answers = this[1].answers
        if (answers.kind, set(this[1].labels)) != (other[1].answers.kind, set(other[1].labels)):
            raise ConfigError(f"{this[1].version} and {other[1].version} know different labels")
        ours, theirs = _test_rows(this[0]), _test_rows(other[0])
        shared = [key for key in ours if key in theirs]
        target = target_for(answers)
        truth = target.read_labels([ours[key][1] for key in shared])
        first, second = (target.read_labels([rows[key][0] for key in shared]) for rows in (ours, theirs))
        options = {"resamples": this[1].training["settings"]["bootstrap"], "seed": 0}
        gains = target.compare(truth, first, second, **options) if shared else None
        return cls(other[1], Proof.load(other[0]), len(shared), gains)


def _test_rows(folder: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """(id, input) -> (answer, truth)."""
    columns = ["id", "input", "part", "label", "true_label"]
    rows = pq.read_table(folder / "reference.parquet", columns=columns).to_pylist()
    return {(row["id"], row["input"]): (row["label"], row["true_label"]) for row in rows if row["part"] == "test"}
