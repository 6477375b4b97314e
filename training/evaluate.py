"""How good answers are, and how sure one can be of that: every figure with a 95% interval.

(truth, prediction) -> counts of each combination -> resampled counts -> metrics of each resample -> interval

A bootstrap resample of n rows is a multinomial draw of how often each combination of truth and predictions occurs. So
the cost depends on how many combinations there are, not on n, and models are compared on the same resamples (paired).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.versions import Metric

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


class Evaluation(NamedTuple):
    """`metrics` by name: accuracy, macro_f1, and precision, recall and f1 of each label as `f1/<label>`."""

    metrics: dict[str, Metric]
    confusion: Ints  # (labels, labels), rows are the truth


def evaluate(truth: Ints, predicted: Ints, labels: Sequence[str], *, resamples: int, seed: int) -> Evaluation:
    """All metrics of one model."""
    confusions = _confusions(np.stack([truth, predicted]), 1, len(labels), resamples, seed)
    metrics = {name: _metric(values) for name, values in metrics_of(confusions, labels).items()}
    return Evaluation(metrics, confusions[0].astype(np.int64))


def compare(
    truth: Ints, ours: Ints, theirs: Ints, labels: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Metric]:
    """Ours minus theirs in accuracy and macro F1, on the same rows and the same resamples."""
    columns = np.stack([truth, ours, theirs])
    first = metrics_of(_confusions(columns, 1, len(labels), resamples, seed), labels)
    second = metrics_of(_confusions(columns, 2, len(labels), resamples, seed), labels)
    return {name: _metric(first[name] - second[name]) for name in ("accuracy", "macro_f1")}


def evaluate_baselines(
    truth: Ints, ours: Ints, baselines: Mapping[str, Ints], labels: Sequence[str], *, resamples: int, seed: int
) -> dict[str, dict[str, Metric]]:
    """Accuracy and macro F1 of each baseline, and how much better ours is: `gain/accuracy`, `gain/macro_f1`."""
    results: dict[str, dict[str, Metric]] = {}
    for name, theirs in baselines.items():
        metrics = evaluate(truth, theirs, labels, resamples=resamples, seed=seed).metrics
        gains = compare(truth, ours, theirs, labels, resamples=resamples, seed=seed)
        results[name] = {key: metrics[key] for key in gains} | {f"gain/{key}": gain for key, gain in gains.items()}
    return results


def metrics_of(confusions: Reals, labels: Sequence[str]) -> dict[str, Reals]:
    """Metrics of each confusion matrix in (resamples, labels, labels).

    A label that nothing was predicted as has precision 0, one that no row has recall 0 (as scikit-learn does), and F1
    is 0 where both are.
    """
    right = np.diagonal(confusions, axis1=1, axis2=2)
    precision = _share(right, confusions.sum(axis=1))
    recall = _share(right, confusions.sum(axis=2))
    f1 = _share(2 * right, confusions.sum(axis=1) + confusions.sum(axis=2))
    metrics = {"accuracy": right.sum(axis=1) / confusions.sum(axis=(1, 2)), "macro_f1": f1.mean(axis=1)}
    for index, label in enumerate(labels):
        metrics |= {
            f"precision/{label}": precision[:, index],
            f"recall/{label}": recall[:, index],
            f"f1/{label}": f1[:, index],
        }
    return metrics


def macro_f1(truth: Ints, predicted: Ints, classes: int) -> float:
    confusion = np.bincount(truth * classes + predicted, minlength=classes**2).reshape(1, classes, classes)
    return float(metrics_of(confusion.astype(np.float64), [str(index) for index in range(classes)])["macro_f1"][0])


def _confusions(columns: Ints, which: int, classes: int, resamples: int, seed: int) -> Reals:
    """Row 0 is the truth, `which` the model. The first matrix is that of the data itself, the rest of resamples."""
    cells, counts = np.unique(columns, axis=1, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    weights = np.concatenate([counts[None, :], draws]).astype(np.float64)  # (1 + resamples, cells)
    confusions = np.zeros((len(weights), classes * classes))
    for cell, place in enumerate(cells[0] * classes + cells[which]):
        confusions[:, place] += weights[:, cell]
    return confusions.reshape(-1, classes, classes)


def _share(part: Reals, whole: Reals) -> Reals:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def _metric(values: Reals) -> Metric:
    """The data's own value and the percentile interval of its resamples (Efron 1979)."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Metric(value=float(values[0]), low=float(low), high=float(high))
