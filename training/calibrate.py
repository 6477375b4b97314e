"""Makes confidence mean what it says: one temperature for all logits, fitted on the validation part.

Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 15
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


def nll(logits: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(truth)), truth].mean())


def ece(probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over bins of confidence."""
    return float(sum(share * abs(confidence - accuracy) for confidence, accuracy, share in bins(probabilities, truth)))


def bins(probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> list[tuple[float, float, float]]:
    """Mean confidence, accuracy and share of rows of each of BINS equal intervals that holds any."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (float(confidence[here].mean()), float(right[here].mean()), float(here.mean()))
        for here in (place == index for index in range(BINS))
        if here.any()
    ]


def warmer(probabilities: NDArray[np.floating], factor: float) -> NDArray[np.float64]:
    """What the probabilities (rows, labels) would be with `factor` times the temperature."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
    return np.asarray(softmax(logits / factor, axis=1))
