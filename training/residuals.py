"""How far numbers are off, and how sure one can be of that: every figure with a 95% interval.

(truth, answer) of each row -> sums over rows, and over resamples of them -> metrics of each resample -> interval
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.versions import Metric
from training.evaluate import interval_of, resample

Reals = NDArray[np.float64]


def evaluate(truth: Reals, answers: Reals, *, resamples: int, seed: int) -> dict[str, Metric]:
    """The mean absolute error, the root of the mean squared error, and R2."""
    (sums,) = _resampled(truth, [answers], resamples, seed)
    return {name: interval_of(values) for name, values in metrics_of(sums).items()}


def compare(truth: Reals, ours: Reals, theirs: Reals, *, resamples: int, seed: int) -> dict[str, Metric]:
    """How much less ours are off, and how much more they explain, on the same rows and the same resamples."""
    first, second = (metrics_of(sums) for sums in _resampled(truth, [ours, theirs], resamples, seed))
    return {
        "mae": interval_of(second["mae"] - first["mae"]),
        "rmse": interval_of(second["rmse"] - first["rmse"]),
        "r2": interval_of(first["r2"] - second["r2"]),
    }


def sums_of(truth: Reals, answers: Reals) -> Reals:
    """(rows, 5): what the metrics are made of, row by row."""
    errors = answers - truth
    return np.stack([np.ones(len(truth)), np.abs(errors), errors**2, truth, truth**2], axis=1)


def metrics_of(sums: Reals) -> Mapping[str, Reals]:
    """Of sums (..., 5) over rows. R2 is 0 where all truths are the same: there is nothing to explain."""
    rows, absolute, squared, total, squares = np.moveaxis(sums, -1, 0)
    spread = squares - total**2 / rows
    spread = np.where(spread > 1e-12 * np.maximum(squares, 1e-300), spread, np.inf)
    explained = np.where(np.isinf(spread), 0.0, 1 - squared / spread)
    return {"mae": absolute / rows, "rmse": np.sqrt(squared / rows), "r2": explained}


def _resampled(truth: Reals, models: Sequence[Reals], resamples: int, seed: int) -> Reals:
    """(models, 1 + resamples, 5): the data itself comes first. Values are taken from their mean, which keeps the
    squares small."""
    middle = truth.mean()
    sums = np.stack([sums_of(truth - middle, answers - middle) for answers in models])
    blocks = resample(np.ones(len(truth), dtype=np.int64), resamples, seed)
    return np.concatenate([weights @ sums for weights in blocks], axis=1)
