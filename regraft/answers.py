"""What a task answers with: one of its labels, or a number. What the two have in common goes by one name here.

whatever somebody says is right -> accept -> the label, as files, events and history hold it: text
one row of the graph's first output -> said -> label, confidence and, of a number, its interval
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

Kind = Literal["classification", "regression"]

# How figures are called by people, and those of which less is better.
FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "weighted_f1": "weighted F1",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
}
SHORT = {"accuracy": "accuracy", "macro_f1": "macro F1", "mae": "MAE", "rmse": "RMSE", "r2": "R²"}
LONGEST = 100  # characters of what was given that a sentence repeats
Columns = NDArray[np.floating[Any]]  # (..., columns of the graph's first output)
LESS_IS_BETTER = frozenset({"mae", "rmse"})


class Accepting:
    """What labels and numbers have in common. `error` is SQL: how far a label is from a truth, NULL where it is not
    known."""

    error: ClassVar[str]

    def accept(self, given: object) -> str:
        raise NotImplementedError

    def takes(self, given: object) -> bool:
        try:
            self.accept(given)
        except ValueError:
            return False
        return True


class Said(NamedTuple):
    """An answer, as events have it. `interval` is where the truth is to be expected."""

    label: str
    confidence: float
    probabilities: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Labels(Accepting):
    """One of these names. The graph says how probable each is."""

    names: tuple[str, ...]
    kind: ClassVar[Kind] = "classification"
    output: ClassVar[str] = "probabilities"
    figures: ClassVar[tuple[str, str]] = ("accuracy", "macro_f1")  # the first is the one that is watched live
    judged: ClassVar[str] = "macro_f1"  # by which points of a training, and backbones, are told apart
    error: ClassVar[str] = "CAST({truth} <> {label} AS DOUBLE)"

    def accept(self, given: object) -> str:
        """Raises ValueError for what is none of them."""
        if given not in self.names:
            raise ValueError(f"unknown label {_short(given)}; the task has {', '.join(self.names)}")
        return str(given)

    def as_task(self) -> dict[str, Any]:
        """As a task, or a manifest, has it among its fields."""
        return {"kind": self.kind, "labels": self.names, "range": None}

    def difference(self, one: Columns, other: Columns, unit: float) -> float:
        """The largest between rows of the graph's first output, in probability."""
        del unit
        return float(np.abs(one - other).max())

    def said(self, row: Sequence[float]) -> Said:
        confidence = max(row)
        return Said(self.names[row.index(confidence)], confidence, tuple(row))

    def series(self, label: str) -> str:
        """What a metric's label may say of an answer: few values, however many answers there are."""
        return label

    def __str__(self) -> str:
        return f"labels {list(self.names)}"


class Numbers(BaseModel, Accepting):
    """A number, within its range where it has one. The graph says the number, the ends of its interval, and how sure it
    is: 0 where the interval is as wide as that of who does not look at the input at all, 1 where it has no width."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum: float | None = None
    maximum: float | None = None
    kind: ClassVar[Kind] = "regression"
    output: ClassVar[str] = "value"
    figures: ClassVar[tuple[str, str]] = ("mae", "r2")
    judged: ClassVar[str] = "mae"
    error: ClassVar[str] = "abs(TRY_CAST({truth} AS DOUBLE) - TRY_CAST({label} AS DOUBLE))"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(math.isfinite(end) for end in (self.minimum, self.maximum) if end is not None):
            raise ValueError("the ends of a range are finite")
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise ValueError("the minimum must be less than the maximum")
        return self

    def accept(self, given: object) -> str:
        """Raises ValueError for what is no finite number, or out of range."""
        if isinstance(given, bool) or (isinstance(given, str) and "_" in given):
            raise ValueError(f"{_short(given)} is no number")
        try:
            value = float(given)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{_short(given)} is no number") from None
        if not math.isfinite(value):
            raise ValueError(f"{_short(given)} is no finite number")
        if self.minimum is not None and value < self.minimum:
            raise ValueError(f"{in_words(value)} is less than the minimum, {in_words(self.minimum)}")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"{in_words(value)} is more than the maximum, {in_words(self.maximum)}")
        return in_words(value)

    def clip(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is out of the range becomes its end, as the graph does with answers."""
        return np.clip(values, self.minimum, self.maximum)

    def as_task(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": (), "range": self}

    def difference(self, one: Columns, other: Columns, unit: float) -> float:
        """Numbers and ends in `unit`, the deviation of what the version was trained on."""
        return float((np.abs(one - other) / np.array([unit, unit, unit, 1.0])).max())

    def said(self, row: Sequence[float]) -> Said:
        value, low, high = (f"{one:.7g}" for one in row[:3])  # more digits float32 has not
        return Said(value, row[3], interval=(float(low), float(high)))

    def series(self, label: str) -> str:
        del label
        return ""

    def __str__(self) -> str:
        ends = (("from", self.minimum), ("to", self.maximum))
        return " ".join(["a number", *(f"{name} {in_words(end)}" for name, end in ends if end is not None)])


Answers = Labels | Numbers


def answers_of(kind: Kind, labels: Sequence[str], allowed: Numbers | None) -> Answers:
    return Labels(tuple(labels)) if kind == "classification" else allowed or Numbers()


def number(value: float, sign: str = "") -> str:
    """For people: three digits, or all that stand before the point; with its sign where `sign` is "+"."""
    return f"{value:{sign},.3g}" if abs(value) < 999.5 else f"{value:{sign},.0f}"


def written(value: float, figure: str, sign: str = "") -> str:
    """A figure, or a difference in it: errors are in the unit of the numbers, be it small or large, the rest shares."""
    return number(value, sign) if figure in LESS_IS_BETTER else f"{value:{sign}.3f}"


def _short(given: object) -> str:
    shown = repr(given)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."


def in_words(value: float) -> str:
    """The shortest text that is read as this number again."""
    return repr(float(value)).removesuffix(".0")
