"""How good answers are, and how sure one can be of that: every figure with a 95% interval.

(truth, prediction) -> counts of each combination -> resampled counts -> metrics of each resample -> interval

A bootstrap resample of n rows is a multinomial draw of how often each combination of truth and predictions occurs. So
the cost depends on how many combinations there are, not on n, and models are compared on the same resamples (paired).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from regraft.versions import Metric

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]

AVERAGED = ("accuracy", "macro_f1", "macro_precision", "macro_recall", "weighted_f1")
AT_ONCE = 4_000_000  # counts that are held in memory together
NORMAL_FROM = 5_000  # different values, from which on their mean is as good as normal


class Tallies(NamedTuple):
    """What metrics are made of; each is (resamples, labels)."""

    right: Reals
    answered: Reals
    true: Reals

    @classmethod
    def of(cls, confusions: Reals) -> Self:
        """Of (resamples, labels, labels), rows the truth."""
        return cls(np.diagonal(confusions, axis1=1, axis2=2), confusions.sum(axis=1), confusions.sum(axis=2))


def evaluate(truth: Ints, predicted: Ints, labels: Sequence[str], *, resamples: int, seed: int) -> dict[str, Metric]:
    """Those of AVERAGED, and precision, recall and f1 of each label as `f1/<label>`."""
    (tallies,) = _resampled(np.stack([truth, predicted]), len(labels), resamples, seed)
    return {name: interval_of(values) for name, values in metrics_of(tallies, labels).items()}


def compare(
    truth: Ints, ours: Ints, theirs: Ints, labels: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Metric]:
    """Ours minus theirs in each of AVERAGED, on the same rows and the same resamples."""
    both = _resampled(np.stack([truth, ours, theirs]), len(labels), resamples, seed)
    first, second = (metrics_of(tallies, labels) for tallies in both)
    return {name: interval_of(first[name] - second[name]) for name in AVERAGED}


def metrics_of(tallies: Tallies, labels: Sequence[str]) -> dict[str, Reals]:
    """Metrics of each resample.

    A label that nothing was predicted as has precision 0, one that no row has recall 0 (as scikit-learn does), and F1
    is 0 where both are.
    """
    right, answered, true = tallies
    precision, recall, f1 = _share(right, answered), _share(right, true), _share(2 * right, answered + true)
    total = true.sum(axis=1)
    metrics = {
        "accuracy": right.sum(axis=1) / total,
        "macro_f1": f1.mean(axis=1),
        "macro_precision": precision.mean(axis=1),
        "macro_recall": recall.mean(axis=1),
        "weighted_f1": (f1 * true).sum(axis=1) / total,
    }
    for index, label in enumerate(labels):
        metrics |= {
            f"precision/{label}": precision[:, index],
            f"recall/{label}": recall[:, index],
            f"f1/{label}": f1[:, index],
        }
    return metrics


def macro_f1(truth: Ints, predicted: Ints, classes: int) -> float:
    answered, true = np.bincount(predicted, minlength=classes), np.bincount(truth, minlength=classes)
    right = np.bincount(truth[truth == predicted], minlength=classes)
    return float(_share((2 * right).astype(np.float64), (answered + true).astype(np.float64)).mean())


def confusion_of(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """(classes, classes), rows are the truth."""
    counts: Ints = np.bincount(truth * classes + predicted, minlength=classes**2).astype(np.int64)
    return counts.reshape(classes, classes)


def mean(values: NDArray[np.floating], *, resamples: int, seed: int) -> Metric:
    """The mean of one value a row with its interval: bootstrapped, or where there are very many, by normal theory."""
    levels, counts = np.unique(values.astype(np.float64), return_counts=True)
    if len(levels) > NORMAL_FROM:
        middle, spread = float(values.mean()), 1.96 * float(values.std()) / np.sqrt(len(values))
        return Metric(value=middle, low=middle - spread, high=middle + spread)
    found = [weights @ levels for weights in resample(counts, resamples, seed)]
    return interval_of(np.concatenate(found) / counts.sum())


def _resampled(columns: Ints, classes: int, resamples: int, seed: int) -> list[Tallies]:
    """Row 0 is the truth, each other row a model. The first tally is that of the data itself, the rest of resamples."""
    cells, counts = np.unique(columns, axis=1, return_counts=True)
    truth, every = cells[0], np.ones(len(counts))
    sums = [_indicator(truth, every, classes)]
    for answers in cells[1:]:
        sums += [_indicator(truth, answers == truth, classes), _indicator(answers, every, classes)]
    blocks = [[weights @ one for one in sums] for weights in resample(counts, resamples, seed)]
    true, *models = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return [Tallies(*pair, true) for pair in zip(models[::2], models[1::2], strict=True)]


def resample(counts: Ints, resamples: int, seed: int) -> Iterator[Reals]:
    """How often each cell is there, in the data itself and then in each resample: blocks of (some, cells)."""
    generator, total = np.random.default_rng(seed), counts.sum()
    yield counts[None, :].astype(np.float64)
    block = max(1, AT_ONCE // len(counts))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield generator.multinomial(total, counts / total, size=size).astype(np.float64)


def _indicator(places: Ints, values: NDArray[np.generic], classes: int) -> csr_array:
    """(cells, classes): the value of each cell in the column of its place."""
    cells = len(places)
    return csr_array((values.astype(np.float64), (np.arange(cells), places)), shape=(cells, classes))


def _share(part: Reals, whole: Reals) -> Reals:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def interval_of(values: Reals) -> Metric:
    """The data's own value and the percentile interval of its resamples (Efron 1979)."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Metric(value=float(values[0]), low=float(low), high=float(high))
