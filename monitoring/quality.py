"""Says how good the live model is: by audit, by calibrated confidence, and how often users object.

    every prediction -> audit drawn with known probability -> reviewed, some strata sooner than others -> accuracy

The three answer different questions and are never mixed. Only audits can tell the accuracy: what users flag is not a
sample, and confidence is the model's own opinion.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri
from scipy.stats import binom
from scipy.stats import t as student

# Rows of one stratum whose audit probabilities differ by more than a factor of two are estimated apart.
_STRATUM_STEP = 1024


@dataclass(frozen=True)
class Estimate:
    """A share, or a mean error, with its interval, the rows it rests on, and the strata that borrowed a neighbour's.

    `audited` and `reviewed` are 0 where nobody looked at any row.
    """

    value: float
    low: float
    high: float
    audited: int = 0
    reviewed: int = 0
    collapsed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Audits:
    """All audited predictions of a window, reviewed or not yet; arrays of shape (audited,).

    `probability` of the audit draw, in (0, 1]; `stratum`, a small integer that holds whatever made reviewers look
    sooner (flagged, disagreement); `outcome`, whether the answer was right or how far off it was, is read only where
    `reviewed`.
    """

    probability: NDArray[np.float64]
    stratum: NDArray[np.int64]
    reviewed: NDArray[np.bool_]
    outcome: NDArray[Any]

    def __post_init__(self) -> None:
        shapes = {np.shape(a) for a in (self.probability, self.stratum, self.reviewed, self.outcome)}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise ValueError("probability, stratum, reviewed and outcome must be flat and of one length")
        if not np.all((self.probability > 0) & (self.probability <= 1)):
            raise ValueError("audit probabilities must lie in (0, 1]")


def audited_accuracy(audits: Audits, *, level: float = 0.95) -> Estimate:
    """The accuracy over all predictions of the window, from the audited ones that were reviewed.

    Each reviewed row stands for 1 / (audit probability) predictions, times the audited over the reviewed of its cell: a
    two-phase, post-stratified Hajek estimate (Sarndal, Swensson and Wretman 1992, "Model Assisted Survey Sampling",
    chapter 9). A cell is a stratum, cut where audit probabilities double. It holds if, within a stratum, what gets
    reviewed does not depend on who was right.

    The interval joins the Clopper-Pearson limits of the cells, each at its effective sample size (Korn and Graubard
    1998, "Confidence intervals for proportions with small expected number of positive counts estimated from survey
    data"), by the distances of these limits from the estimates (MOVER: Zou and Donner 2008, "Construction of confidence
    limits about effect measures"), and adds the chance in how many audits fell into each cell. So a cell in which no
    error was seen still has its say. It is meant for the accuracy the model has on such traffic, and is therefore on
    the wide side for the predictions at hand when most of them were audited.

    A stratum that has audits but no review takes the accuracy of the nearest one that has, is named in `collapsed`, and
    widens the interval as if its predictions could all be right or all be wrong.

    Undefined, and therefore `nan` within 0 to 1, when nothing is reviewed.
    """
    reviewed = np.asarray(audits.reviewed, dtype=bool)
    audited_count, reviewed_count = len(reviewed), int(reviewed.sum())
    if reviewed_count == 0:
        return Estimate(math.nan, 0.0, 1.0, audited_count, 0, tuple(np.unique(audits.stratum).tolist()))

    weight, stratum, cell = _cells(audits, reviewed)
    share = np.bincount(cell, weight)
    accuracy, size = _accuracy_by_cell(cell[reviewed], weight[reviewed], np.asarray(audits.outcome, bool)[reviewed])
    value = min(1.0, float(share @ accuracy))  # the shares may sum to a hair more than 1

    unknown = ~np.isin(stratum, stratum[reviewed])
    unknown_share = float(weight[unknown].sum())
    unknown_right = float(weight[unknown] @ accuracy[cell[unknown]])

    low, high = clopper_pearson(accuracy, size, level=level)
    between = float(ndtri((1 + level) / 2)) ** 2 * float(weight**2 @ (accuracy[cell] - value) ** 2)
    below = math.sqrt(float(share**2 @ (accuracy - low) ** 2) + between) + unknown_right
    above = math.sqrt(float(share**2 @ (high - accuracy) ** 2) + between) + unknown_share - unknown_right
    return Estimate(
        value,
        max(0.0, value - below),
        min(1.0, value + above),
        audited_count,
        reviewed_count,
        tuple(np.unique(stratum[unknown]).tolist()),
    )


def audited_error(audits: Audits, *, level: float = 0.95) -> Estimate:
    """The mean error over all predictions of the window, from the audited ones that were reviewed, weighted as
    `audited_accuracy` is.

    The interval is Student's: the variances of the cells' weighted means (a cell with a single review takes the
    variance of all), and the chance in how many audits fell into each cell. A stratum without any review could be as
    bad as the worst that was seen, or without error. On few reviews of skewed errors it is a little short.

    Undefined, and therefore `nan` within 0 and infinity, when fewer than two are reviewed.
    """
    reviewed = np.asarray(audits.reviewed, dtype=bool)
    audited_count, reviewed_count = len(reviewed), int(reviewed.sum())
    if reviewed_count < 2:
        strata = tuple(np.unique(audits.stratum).tolist())
        return Estimate(math.nan, 0.0, math.inf, audited_count, reviewed_count, strata)
    weight, stratum, cell = _cells(audits, reviewed)
    errors, weights, cells = np.asarray(audits.outcome, dtype=float)[reviewed], weight[reviewed], cell[reviewed]
    share, total, rows = np.bincount(cell, weight), np.bincount(cells, weights), np.bincount(cells)
    middle = np.bincount(cells, weights * errors) / total
    value = float(share @ middle)

    squares = np.bincount(cells, weights**2 * (errors - middle[cells]) ** 2) / total**2
    variance = np.where(rows > 1, squares * rows / np.maximum(rows - 1, 1), errors.var(ddof=1))
    between = float(weight**2 @ (middle[cell] - value) ** 2)
    wide = float(student.ppf((1 + level) / 2, max(1, reviewed_count - len(rows))))
    half = wide * math.sqrt(float(share**2 @ variance) + between)

    unknown = ~np.isin(stratum, stratum[reviewed])
    unknown_error = float(weight[unknown] @ middle[cell[unknown]])
    unknown_most = float(weight[unknown].sum() * errors.max())
    return Estimate(
        value,
        max(0.0, value - half - unknown_error),
        value + half + unknown_most - unknown_error,
        audited_count,
        reviewed_count,
        tuple(np.unique(stratum[unknown]).tolist()),
    )


def estimated_accuracy(confidence: NDArray[np.float64], *, level: float = 0.95) -> Estimate:
    """The accuracy the model itself expects: the mean of its calibrated confidence in what it answered, shape (rows,).

    Confidence-based performance estimation (Bialek, Kuberski, Perrakis and Bifet 2024, "Estimating Model Performance
    Under Covariate Shift Without Labels"). The interval holds the accuracy these rows turn out to have, given that the
    calibration still holds: binomial quantiles, which are wider than those of draws with unequal chances (Hoeffding
    1956, "On the distribution of the number of successes in independent trials"). When the concept moved and the
    calibration with it, the gap to the audited accuracy is what shows it.

    Undefined, and therefore `nan` within 0 to 1, without rows. Raises ValueError for a confidence outside [0, 1].
    """
    confidence = np.asarray(confidence, dtype=float)
    if not np.all((confidence >= 0) & (confidence <= 1)):
        raise ValueError("confidences must lie in [0, 1]")
    rows = len(confidence)
    if rows == 0:
        return Estimate(math.nan, 0.0, 1.0)
    value = float(confidence.mean())
    tail = (1 - level) / 2
    low, high = (float(binom.ppf(at, rows, value)) / rows for at in (tail, 1 - tail))
    return Estimate(value, low, high)


def flag_rate(flags: int, predictions: int, *, level: float = 0.95) -> Estimate:
    """The share of predictions that users flagged, with Wilson's interval (1927); it says nothing of the accuracy.

    Undefined, and therefore `nan` within 0 to 1, without predictions. Raises ValueError unless
    0 <= flags <= predictions.
    """
    if not 0 <= flags <= predictions:
        raise ValueError(f"flags must lie between 0 and the {predictions} predictions, not {flags}")
    if predictions == 0:
        return Estimate(math.nan, 0.0, 1.0)
    z2 = float(ndtri((1 + level) / 2)) ** 2
    share = flags / predictions
    middle = (flags + z2 / 2) / (predictions + z2)
    half = math.sqrt(z2 * (predictions * share * (1 - share) + z2 / 4)) / (predictions + z2)
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def clopper_pearson(
    share: NDArray[np.float64], size: NDArray[np.float64], *, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact limits (Clopper and Pearson 1934) of shares seen in samples of these sizes, whole or effective."""
    tail = (1 - level) / 2
    hits, misses = share * size, (1 - share) * size
    tiny = np.finfo(float).tiny
    low = np.where(hits > 0, betaincinv(np.maximum(hits, tiny), misses + 1, tail), 0.0)
    high = np.where(misses > 0, betaincinv(hits + 1, np.maximum(misses, tiny), 1 - tail), 1.0)
    return low, high


def _cells(
    audits: Audits, reviewed: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """How much of the window each row stands for, its stratum, and its cell."""
    weight = 1 / np.asarray(audits.probability, dtype=float)
    weight /= weight.sum()
    stratum = np.asarray(audits.stratum, dtype=np.int64)
    key = stratum * _STRATUM_STEP + np.floor(np.log2(1 / audits.probability)).astype(int)
    return weight, stratum, _reviewed_cells(key, reviewed)


def _reviewed_cells(key: NDArray[np.int64], reviewed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Each row's cell, numbered from 0; a row of a cell without reviews goes to the one with the nearest key."""
    reviewed_keys = np.unique(key[reviewed])
    keys, position = np.unique(key, return_inverse=True)
    nearest = np.abs(keys[:, None] - reviewed_keys).argmin(axis=1)
    cell: NDArray[np.int64] = nearest[position]
    return cell


def _accuracy_by_cell(
    cell: NDArray[np.int64], weight: NDArray[np.float64], correct: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weighted accuracy of each cell, and the size of a simple sample that would know it as well."""
    total, squares = np.bincount(cell, weight), np.bincount(cell, weight**2)
    accuracy = np.bincount(cell, weight * correct) / total
    size = total**2 / squares  # Kish 1965
    variance = np.bincount(cell, weight**2 * (correct - accuracy[cell]) ** 2) / total**2
    mixed = variance > 0
    size[mixed] = np.minimum(size[mixed], (accuracy * (1 - accuracy))[mixed] / variance[mixed])
    return accuracy, size
