"""Two versions on the same labelled texts, scored offline, so that the texts are in no traffic."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.reviews.actors import Snippet
from regraft.preprocessing import TextPreprocessor
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import Manifest, Metric, VersionStore
from training import evaluate
from training.dataset import read_dataset
from training.runtime import Scorer

RESAMPLES = 2000


class Comparison(NamedTuple):
    """Accuracies with 95% intervals, and their paired difference."""

    before: Metric
    after: Metric
    difference: Metric

    def __str__(self) -> str:
        before, after, difference = (f"{m.value:.3f} ({m.low:.3f} to {m.high:.3f})" for m in self)
        return f"before {before}   after {after}   difference {difference}"


def compare(settings: Settings, before: str, after: str, texts: Sequence[Snippet]) -> Comparison:
    store, labels = VersionStore(settings.versions), Task.load(settings.task).labels
    truth = np.array([labels.index(snippet.label) for snippet in texts])
    old, new = (answers(store.fetch(version), store.manifest(version), texts) for version in (before, after))
    difference = evaluate.compare(truth, new, old, labels, resamples=RESAMPLES, seed=0)["accuracy"]
    return Comparison(accuracy(truth, old, labels), accuracy(truth, new, labels), difference)


def accuracy(truth: NDArray[np.int64], answered: NDArray[np.int64], labels: Sequence[str]) -> Metric:
    return evaluate.evaluate(truth, answered, labels, resamples=RESAMPLES, seed=0)["accuracy"]


def answers(folder: Path, manifest: Manifest, texts: Sequence[Snippet]) -> NDArray[np.int64]:
    """The label index that the version gives each text."""
    preprocessor = TextPreprocessor.load(folder)
    scorer = Scorer(folder / manifest.artifacts[manifest.serve_cpu].file, preprocessor)
    encodings = preprocessor.encode([snippet.text for snippet in texts])
    answered: NDArray[np.int64] = scorer.score(encodings).answers.argmax(axis=1)
    return answered


def test_part(settings: Settings) -> list[Snippet]:
    """The original test part, which no training has seen."""
    task = Task.load(settings.task)
    return [Snippet(row.input, row.label) for row in read_dataset(task).parts.test]
