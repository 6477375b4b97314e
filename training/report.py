"""One page that says how good a version is, against what, and where it fails; readable offline.

Results -> pictures and tables -> templates/report.html.jinja -> HTML without a single link to elsewhere
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from regraft.task import Task
from regraft.versions import Manifest, Metric
from training import charts
from training.calibrate import warmer
from training.data import Row
from training.progress import Progress

WORST = 15


class Results(NamedTuple):
    """All that the page shows; `truth` (rows,) and `probabilities` (rows, labels) are of the test part."""

    task: Task
    manifest: Manifest
    findings: Sequence[str]
    card: dict[str, Any]
    progress: Progress
    confusion: NDArray[np.int64]
    test: Sequence[Row]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class Mistake(NamedTuple):
    id: str
    text: str
    truth: str
    answer: str
    confidence: float
    truth_probability: float


def write_report(file: Path, results: Results) -> None:
    environment = Environment(
        loader=PackageLoader("training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": interval, "size": size}
    page = environment.get_template("report.html.jinja")
    manifest = results.manifest
    before = warmer(results.probabilities, 1 / manifest.temperature)
    compared = [("this version", manifest.test), *manifest.baselines.items()]
    file.write_text(
        page.render(
            results._asdict()
            | {
                "compared": compared,
                "mistakes": worst(results),
                "learning": charts.learning_curves(results.progress.curve, manifest.training["best_step"]),
                "gradients": charts.gradient_norms(results.progress.curve),
                "confusion_chart": charts.confusion(results.confusion, results.task.labels),
                "reliability": charts.reliability(before, results.probabilities, results.truth),
                "accuracies": charts.intervals([(name, metrics["accuracy"]) for name, metrics in compared]),
                "f1s": charts.intervals([(name, metrics["macro_f1"]) for name, metrics in compared]),
                "support": results.confusion.sum(axis=1).tolist(),
            }
        ),
        encoding="utf-8",
    )


def worst(results: Results) -> list[Mistake]:
    """The wrong answers that were given with the most confidence."""
    answers, confidence = results.probabilities.argmax(axis=1), results.probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != results.truth)
    labels = results.task.labels
    return [
        Mistake(
            id=results.test[index].id,
            text=results.test[index].input,
            truth=labels[results.truth[index]],
            answer=labels[answers[index]],
            confidence=float(confidence[index]),
            truth_probability=float(results.probabilities[index, results.truth[index]]),
        )
        for index in wrong[np.argsort(-confidence[wrong], kind="stable")][:WORST]
    ]


def interval(metric: Metric, sign: str = "") -> str:
    return f"{metric.value:{sign}.3f} ({metric.low:{sign}.3f} to {metric.high:{sign}.3f})"


def size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
