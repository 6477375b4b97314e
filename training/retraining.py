"""The data of a retraining, and whether the candidate that it gives is worth an A/B test.

original parts + reviewed predictions -> newest held out by time -> train, validation, test as before -> candidate
candidate and production -> the original test part, and the newest labels -> paired differences -> refused, or not
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from regraft.answers import FIGURES, Answers, written
from regraft.errors import DataError
from regraft.history import History, as_utc
from regraft.inputs import InputStore
from regraft.preprocessing import ImagePreprocessor, Preprocessor, load_preprocessor
from regraft.task import Task
from regraft.versions import Manifest
from training.checks import refuse_leaks
from training.data import Parts, Row, part_counts, split_hash
from training.dataset import Dataset
from training.distribution import answers_in, distribution_of
from training.duplicates import unlike
from training.lookalikes import alike, looks_of
from training.pictures import ImageFiles
from training.runtime import Scorer
from training.split import grouped
from training.targets import target_of
from training.train import texts
from training.value import worth

TARGETED = 3.0  # times as much as others count the rows that a retraining is about
FEWEST_NEWEST = 20  # labels; fewer say nothing about which of two versions is better

# The newest review of each prediction, of those given until a moment: the same answer whenever it is asked.
_REVIEWED = """
WITH reviewed AS (
    SELECT prediction_id, arg_max(label, id) AS label, arg_max(happened_at, id) AS reviewed_at, max(id) AS review_id
    FROM records WHERE kind = 'review_given' AND happened_at <= $until GROUP BY prediction_id
)
SELECT p.id, p.input, r.label, r.review_id, p.metadata
FROM reviewed r JOIN predictions p ON p.id = r.prediction_id
WHERE p.input IS NOT NULL ORDER BY r.reviewed_at, r.review_id
"""


class Material(NamedTuple):
    """What a candidate is trained on, and the newest labels that it is judged on and never sees."""

    dataset: Dataset
    newest: list[Row]


def reviewed_rows(history: History, until: datetime, answers: Answers, inputs: InputStore | None = None) -> list[Row]:
    """Predictions as labelled examples, in order of review; what callers said of them are their conditions.

    Labels that the task no longer has are left out, and images that are no longer among the `inputs`.
    """
    connection = history.connect()
    try:
        found = connection.execute(_REVIEWED, {"until": as_utc(until)}).fetchall()
    finally:
        connection.close()
    rows = [
        Row(id_, value, label, f"review {review}", conditions=dict(metadata or {}))
        for id_, value, label, review, metadata in found
        if answers.takes(label)
    ]
    if inputs is None:
        return rows
    return [row._replace(input=inputs.address(row.input), content=row.input) for row in rows if inputs.has(row.input)]


def trained_on(folder: Path) -> set[str]:
    """The texts that the version in `folder` was trained or tuned on."""
    file = folder / "rows.parquet"
    if not file.is_file():
        return set()
    rows = pq.read_table(file, columns=["part", "text"]).to_pylist()
    return {row["text"] for row in rows if row["part"] != "test"}


def assemble(
    original: Dataset, reviewed: Sequence[Row], seen: set[str], newest_share: float, near_duplicates: float | None
) -> Material:
    """Reviewed labels join the training part; validation and test stay as they were.

    The newest are held out. Of those, inputs that the original data or production (`seen`) know are left out, or
    production would be judged on what it was trained on. A newer label of an input replaces an older one. What
    resembles an input (`near_duplicates`, as for the split) is treated as that input; a picture that production saw and
    that is no longer there resembles none.
    """
    parts = original.parts
    held = max(1, round(len(reviewed) * newest_share))
    earlier, latest = reviewed[:-held], reviewed[-held:]
    late, early = _by_key(latest), _by_key(earlier)
    known = seen | {row.key for part in parts for row in part}
    everything = [row for rows in (*parts, reviewed) for row in rows]
    find = partial(alike, looks=looks_of(everything) if near_duplicates is not None else {})
    newest = [late[key] for key in unlike(list(late), known, near_duplicates, find)]
    apart = {row.key for rows in (newest, parts.validation, parts.test) for row in rows}
    new = {key: early[key] for key in unlike(list(early), apart, near_duplicates, find)}
    kept = [row for row in parts.train if row.key not in new]
    together = Parts([*kept, *new.values()], parts.validation, parts.test)
    refuse_leaks(grouped([row for part in together for row in part], None), together)
    card = original.card | {
        "parts": part_counts(together, distribution_of(answers_in(original.card))),
        "split_sha256": split_hash(together),
        "reviewed": {"rows": len(reviewed), "trained_on": len(new), "held_out": len(newest)},
        "files_split_sha256": original.card["split_sha256"],
    }
    return Material(Dataset(together, original.findings, card), newest)


def aimed(material: Material, target: Mapping[str, str]) -> Material:
    """Training rows that meet all conditions of `target` (a row's label is one of them) count for more.

    Raises DataError if there is none.
    """
    if not target:
        return material
    dataset = material.dataset
    hit = [row.id for row in dataset.parts.train if target.items() <= {**row.conditions, "label": row.label}.items()]
    if not hit:
        asked = ", ".join(f"{name} = {value}" for name, value in target.items())
        raise DataError(f"no training row has {asked}: there is nothing to learn from for this slice yet")
    card = dataset.card | {"targeted": {"conditions": dict(target), "rows": len(hit), "weight": TARGETED}}
    return material._replace(dataset=dataset._replace(card=card, weights=dict.fromkeys(hit, TARGETED)))


def frozen(file: Path, make: Callable[[], Material]) -> Material:
    """What `make` gives, kept in `file`: a run that goes on finds the data that it began with."""
    if not file.is_file():
        dataset, newest = make()
        body = dataset._asdict() | {"parts": dataset.parts._asdict(), "weights": {**dataset.weights}, "newest": newest}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        part.write_text(json.dumps(body))
        part.replace(file)
    body = json.loads(file.read_text())
    parts = Parts(**{name: [Row(*row) for row in rows] for name, rows in body["parts"].items()})
    dataset = Dataset(parts, body["findings"], body["card"], body["weights"])
    return Material(dataset, [Row(*row) for row in body["newest"]])


def compare_versions(
    task: Task, material: Material, candidate: tuple[Path, Manifest], production: tuple[Path, Manifest]
) -> dict[str, Any]:
    """How good both are on the original test part and on the newest labels, with the paired difference's interval;
    above 0 the candidate is better.

    Raises DataError when there are too few newest labels, or the versions do not know the same labels.
    """
    if production[1].answers != candidate[1].answers:
        raise DataError("production has other labels, or another range, than the task; the two cannot be compared")
    if len(material.newest) < FEWEST_NEWEST:
        raise DataError(
            f"only {len(material.newest)} new labels could be held out to judge the candidate on,"
            f" {FEWEST_NEWEST} are needed"
        )
    parts = {"original_test": material.dataset.parts.test, "newest": material.newest}
    target = target_of(task, material.dataset.parts.train)
    figure, options = task.answers.figures[0], {"resamples": task.training.bootstrap, "seed": task.data.seed}
    evidence: dict[str, Any] = {"figure": figure, "unit": target.unit}
    for name, rows in parts.items():
        truth = target.truth(rows)
        ours, theirs = (target.read(_answers(*version, rows)) for version in (candidate, production))
        difference = target.compare(truth, ours, theirs, **options)
        evidence[name] = {
            "rows": len(rows),
            "candidate": target.quality(truth, ours)[figure],
            "production": target.quality(truth, theirs)[figure],
            "difference": {metric: value.model_dump() for metric, value in difference.items()},
        }
        if task.value:
            saved = worth(task.value, truth, ours, {"production": theirs}, target, **options)
            evidence[name]["worth"] = saved.model_dump()
    return evidence


def objection(evidence: dict[str, Any], forgetting: float) -> str | None:
    """Why the candidate gets no A/B test, or None. The differences themselves count: what chance adds, the test bears.

    Asking for intervals that exclude 0 would turn away most candidates that are better, when newest labels are few.
    """
    figure, allowed = evidence["figure"], forgetting * evidence["unit"]
    lost, gained = (
        sign * evidence[name]["difference"][figure]["value"] for name, sign in (("original_test", -1), ("newest", 1))
    )
    of = FIGURES[figure]
    if lost > allowed:
        return (
            f"the candidate forgets: {written(lost, figure)} of {of} lost on the original test part,"
            f" {written(allowed, figure)} is allowed"
        )
    if gained <= 0:
        return f"the candidate is no better on the newest labels: {written(gained, figure, '+')} of {of}"
    return None


def _answers(folder: Path, manifest: Manifest, rows: Sequence[Row]) -> NDArray[np.float32]:
    loaded = load_preprocessor(folder)
    preprocessor: Preprocessor = ImageFiles(loaded.spec) if isinstance(loaded, ImagePreprocessor) else loaded
    scorer = Scorer(folder / manifest.artifacts[manifest.serve_cpu].file, preprocessor)
    return scorer.score(preprocessor.encode(texts(rows))).answers


def _by_key(rows: Sequence[Row]) -> dict[str, Row]:
    """The last row of each input."""
    return {row.key: row for row in rows}
