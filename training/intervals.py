"""Intervals that hold the truth as often as they say: split conformal prediction on the validation part.

residuals of the training part -> how large they are where (a linear model of the pooled vector, if it helps)
residuals of the validation part, each over its scale -> their quantile -> the width of every interval

Papadopoulos et al. 2002, "Inductive confidence machines for regression"; Lei et al. 2018, "Distribution-free predictive
inference for regression". Whatever the scale is worth, the share of truths within is what was asked for, on rows like
those of the validation part.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from regraft.answers import Numbers
from regraft.versions import Metric
from training.evaluate import mean
from training.network import Output
from training.slices import proportion

SMALLEST = 0.05  # deviations; residuals below it do not differ
STRENGTHS = np.logspace(0, 5, 11)
BINS = 5  # of rows by the width of their interval

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Intervals:
    """In deviations of the training part, whose mean and deviation are `center` and `unit`. An interval reaches
    `quantile` times the scale to both sides; `alone` is how far it would reach without a look at the input."""

    level: float
    center: float
    unit: float
    allowed: Numbers
    quantile: float
    alone: float
    weights: Reals  # (width,), of the scale's logarithm; all 0 where the scale is 1 everywhere
    bias: float
    bounds: tuple[float, float]  # of that logarithm
    mean_half: float  # on the validation part
    constant_half: float  # what it would be with one scale for all

    @property
    def temperature(self) -> float:
        return 1.0

    @property
    def adaptive(self) -> bool:
        return bool(self.weights.any())

    def module(self) -> nn.Module:
        return Answering(self)

    def as_json(self) -> dict[str, Any]:
        names = ("level", "center", "unit", "quantile", "alone", "mean_half", "constant_half", "adaptive")
        return {name: getattr(self, name) for name in names}


class Answering(nn.Module):
    """The network's output -> (batch, 4): the number, the ends of its interval, and the confidence."""

    def __init__(self, intervals: Intervals) -> None:
        super().__init__()
        self.weights: Tensor
        self.bias: Tensor
        self.register_buffer("weights", torch.tensor(intervals.weights, dtype=torch.float32).reshape(1, -1))
        self.register_buffer("bias", torch.tensor([intervals.bias], dtype=torch.float32))
        self._intervals = intervals

    def forward(self, output: Output) -> Tensor:
        found, allowed = self._intervals, self._intervals.allowed
        logs = nn.functional.linear(output.adapted, self.weights, self.bias)
        half = found.quantile * logs.clamp(*found.bounds).exp()
        value = output.logits
        ends = torch.cat([value, value - half, value + half], dim=1) * found.unit + found.center
        if allowed.minimum is not None or allowed.maximum is not None:
            ends = ends.clamp(allowed.minimum, allowed.maximum)
        return torch.cat([ends, (1 - half / found.alone).clamp(0.0, 1.0)], dim=1)


class Part(NamedTuple):
    """One part of the data, in deviations."""

    vectors: NDArray[np.float32]  # (rows, width), what the head sees
    values: NDArray[np.float32]  # (rows,), what it says
    truth: Reals


def fit(train: Part, validation: Part, *, level: float, center: float, unit: float, allowed: Numbers) -> Intervals:
    off = np.abs(validation.values - validation.truth).astype(np.float64)
    constant = conformal(off, level)
    alone = max(conformal(np.abs(validation.truth), level), SMALLEST)
    weights, bias, bounds = _scale(train)
    scales = np.exp(np.clip(validation.vectors @ weights + bias, *bounds))
    quantile = conformal(off / scales, level)
    half = float(quantile * scales.mean())
    if half >= constant:  # the scale says nothing
        weights, bias, bounds, quantile, half = np.zeros_like(weights), 0.0, (0.0, 0.0), constant, constant
    return Intervals(
        level=level,
        center=center,
        unit=unit,
        allowed=allowed,
        quantile=quantile,
        alone=alone,
        weights=weights,
        bias=bias,
        bounds=bounds,
        mean_half=half,
        constant_half=constant,
    )


def conformal(scores: Reals, level: float) -> float:
    """The smallest bound that a further score stays within with a chance of `level`; the largest of all where there are
    too few to say."""
    rank = math.ceil((len(scores) + 1) * level)
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def _scale(train: Part) -> tuple[Reals, float, tuple[float, float]]:
    """Weights and bias of the logarithm of residuals, and the range it has on the training part."""
    logs = np.log(np.maximum(np.abs(train.values - train.truth), SMALLEST))
    model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS))
    with threadpool_limits(1):
        model.fit(train.vectors.astype(np.float64), logs)
    scaler, ridge = model[0], model[1]
    weights = np.asarray(ridge.coef_ / scaler.scale_, dtype=np.float64)
    bias = float(ridge.intercept_ - weights @ scaler.mean_)
    found = train.vectors @ weights + bias
    low, high = np.quantile(found, [0.01, 0.99])
    return weights, bias, (float(low), float(high))


class Bin(NamedTuple):
    """Rows with intervals of like width: mean half width and absolute error, share of truths within, share of rows."""

    half: float
    error: float
    held: float
    share: float


class Held(BaseModel):
    """The test part, which the intervals were not fitted on; widths in the caller's unit, within the range."""

    model_config = ConfigDict(frozen=True)

    level: float
    coverage: Metric
    width: Metric
    constant_width: float
    alone_width: float
    adaptive: bool
    bins: list[Bin]


def measure(columns: NDArray[np.float32], truth: Reals, intervals: Intervals, *, resamples: int, seed: int) -> Held:
    value, low, high, _ = columns.astype(np.float64).T
    within = (truth >= low) & (truth <= high)
    width = high - low
    constant, alone = (reach * intervals.unit for reach in (intervals.constant_half, intervals.alone))
    clip, middle = intervals.allowed.clip, np.array(intervals.center)
    return Held(
        level=intervals.level,
        coverage=proportion(int(within.sum()), len(within)),
        width=mean(width, resamples=resamples, seed=seed),
        constant_width=float(np.mean(clip(value + constant) - clip(value - constant))),
        alone_width=float(clip(middle + alone) - clip(middle - alone)),
        adaptive=intervals.adaptive,
        bins=[
            Bin(
                float(width[rows].mean() / 2),
                float(np.abs(value - truth)[rows].mean()),
                float(within[rows].mean()),
                len(rows) / len(truth),
            )
            for rows in np.array_split(np.argsort(width, kind="stable"), BINS)
            if len(rows)
        ],
    )
