"""Makes confidence mean what it says: one temperature for all logits, fitted on the validation part.

Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks".
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from regraft.versions import Metric
from training.evaluate import mean

BINS = 15
DRAWS = 500  # of outcomes, to see what chance does
RANGE = (np.log(0.05), np.log(20.0))

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    temperature: float
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float


def fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> Calibration:
    """The temperature with the least negative log-likelihood of `truth` (rows,) under `logits` (rows, labels)."""
    found = minimize_scalar(lambda log_t: nll(logits / np.exp(log_t), truth), bounds=RANGE, method="bounded")
    temperature = float(np.exp(found.x))
    return Calibration(
        temperature=temperature,
        ece_before=ece(softmax(logits, axis=1), truth),
        ece_after=ece(softmax(logits / temperature, axis=1), truth),
        nll_before=nll(logits, truth),
        nll_after=nll(logits / temperature, truth),
    )


class Bin(NamedTuple):
    """Rows of like confidence: mean confidence, accuracy, and their share of all rows."""

    confidence: float
    accuracy: float
    share: float


class Calibrated(BaseModel):
    """The test part, which the temperature was not fitted on."""

    model_config = ConfigDict(frozen=True)

    nll_before: Metric
    nll_after: Metric
    nll_gain: Metric  # paired; above 0 the temperature helps
    ece_before: float
    ece_after: float
    ece_by_chance: tuple[float, float]  # 95% of what it would be if confidence meant exactly what it says
    bins_before: list[Bin]
    bins_after: list[Bin]


def measure(
    probabilities: NDArray[np.floating], truth: NDArray[np.int64], temperature: float, *, resamples: int, seed: int
) -> Calibrated:
    """`probabilities` (rows, labels) are those after the temperature; what they were before is worked out."""
    uncalibrated = warmer(probabilities, 1 / temperature)
    before, after = surprise(uncalibrated, truth), surprise(probabilities, truth)
    options = {"resamples": resamples, "seed": seed}
    return Calibrated(
        nll_before=mean(before, **options),
        nll_after=mean(after, **options),
        nll_gain=mean(before - after, **options),
        ece_before=ece(uncalibrated, truth),
        ece_after=ece(probabilities, truth),
        ece_by_chance=ece_by_chance(probabilities, seed=seed),
        bins_before=bins(uncalibrated, truth),
        bins_after=bins(probabilities, truth),
    )


def surprise(probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> Reals:
    """Negative log-likelihood of each row, in nats."""
    given = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return np.asarray(-np.log(np.maximum(given, 1e-12)))


def ece_by_chance(probabilities: NDArray[np.floating], *, seed: int) -> tuple[float, float]:
    """The middle 95% of the calibration error that a perfectly calibrated model with these confidences would show.

    On few rows it is far from 0. Outcomes are drawn from the confidences themselves: consistency resampling, Bröcker
    and Smith 2007, "Increasing the reliability of reliability diagrams".
    """
    confidence = probabilities.max(axis=1)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        gap = (generator.random(len(confidence)) < confidence) - confidence
        found.append(np.abs(np.bincount(place, gap, BINS)).sum() / len(confidence))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def nll(logits: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(truth)), truth].mean())


def ece(probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over bins of confidence."""
    return float(sum(share * abs(confidence - accuracy) for confidence, accuracy, share in bins(probabilities, truth)))


def bins(probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> list[Bin]:
    """Those of BINS equal intervals of confidence that hold any rows."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(float(confidence[here].mean()), float(right[here].mean()), float(here.mean()))
        for here in (place == index for index in range(BINS))
        if here.any()
    ]


def warmer(probabilities: NDArray[np.floating], factor: float) -> NDArray[np.float64]:
    """What the probabilities (rows, labels) would be with `factor` times the temperature."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
    return np.asarray(softmax(logits / factor, axis=1))
