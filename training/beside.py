"""Two versions side by side, on the test rows that both have.

reference.parquet and rows.parquet of both -> rows in common -> paired differences; manifests and proofs -> the rest
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


def _test_rows(folder: Path) -> dict[tuple[str, str | None], tuple[str, str]]:
    """(id, key of the input) -> (answer, truth): of an image its content, wherever the file lay."""
    keyed, answered = (
        pq.read_table(folder / file, columns=columns, filters=[("part", "=", "test")]).to_pylist()
        for file, columns in (("rows.parquet", ["id", "text"]), ("reference.parquet", ["id", "label", "true_label"]))
    )
    keys = {row["id"]: row["text"] for row in keyed}
    return {(row["id"], keys.get(row["id"])): (row["label"], row["true_label"]) for row in answered}
