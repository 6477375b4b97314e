"""Labels that are probably wrong, for a person to look at.

texts or thumbnails, labels -> out-of-fold probabilities of a cheap model -> confident learning -> suspects, in order
texts or thumbnails, numbers -> out-of-fold estimates of a cheap model -> residuals that are far out -> outliers

Northcutt, Jiang & Chuang (2021), Confident Learning: Estimating Uncertainty in Dataset Labels.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge, SGDClassifier
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from regraft.answers import in_words
from training.baselines import WORDS
from training.data import Row
from training.lookalikes import Looks

FOLDS = 5
OF_WORDS, OF_PIXELS = 1e-4, 1.0  # how far the weights are held back; with less, pixels make it all too sure
FEWEST = 20  # rows of numbers; fewer say nothing about which is far out
FAR = 3.0  # deviations
USUAL = 1.4826  # times the median residual is the deviation, where residuals are normal


class Suspect(NamedTuple):
    row: Row
    likelier: str
    probability: float  # of the likelier label
    own: float  # of the label that the row has

    def __str__(self) -> str:
        return (
            f"{_said(self.row)} is {self.row.label!r}; {self.likelier!r} is likelier"
            f" ({self.probability:.2f} against {self.own:.2f})"
        )


class Outlier(NamedTuple):
    row: Row
    expected: float  # to a tenth of what is usual to be off, or finer
    deviations: float  # how far off, where most are within 1

    def __str__(self) -> str:
        return (
            f"{_said(self.row)} is {self.row.label}; about {in_words(self.expected)} is likelier"
            f" ({self.deviations:.1f} times as far off as is usual)"
        )


def suspects(rows: Sequence[Row], *, seed: int, looks: Looks | None = None) -> list[Suspect]:
    """Of `rows`, each input once; `looks` are of images. Labels with fewer rows than there are folds are left out."""
    once = list({row.key: row for row in rows}.values())
    names, counts = np.unique([row.label for row in once], return_counts=True)
    names = names[counts >= FOLDS]
    if len(names) < 2:
        return []
    judged = [row for row in once if row.label in names]
    labels = np.searchsorted(names, [row.label for row in judged])
    inputs = np.stack([looks[row.key] for row in judged]) if looks else [row.input for row in judged]
    probabilities = out_of_fold(inputs, labels, seed=seed)
    return [
        Suspect(judged[row], str(names[other]), *(float(probabilities[row, label]) for label in (other, labels[row])))
        for row, other in off_diagonal(probabilities, labels)
    ]


def out_of_fold(
    inputs: Sequence[str] | NDArray[np.uint8], labels: NDArray[np.int64], *, seed: int
) -> NDArray[np.float64]:
    """(rows, labels): what a linear model of words, or of thumbnails, says of each row that nothing was fitted on.

    Stochastic gradient descent finds as many planted errors as an exact fit does, in a sixth of the time.
    """
    restraint = OF_PIXELS if isinstance(inputs, np.ndarray) else OF_WORDS
    classifier = SGDClassifier(loss="log_loss", alpha=restraint, average=True, random_state=seed)
    model = make_pipeline(_features(inputs), classifier)
    folds: Any = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    found: NDArray[np.float64] = cross_val_predict(model, inputs, labels, cv=folds, method="predict_proba")
    return found


def outliers(rows: Sequence[Row], *, seed: int, looks: Looks | None = None) -> list[Outlier]:
    """Of `rows`, each input once, those whose number is further from a ridge regression of words, or of thumbnails,
    that was fitted without them than FAR times the usual residual; the furthest first."""
    once = list({row.key: row for row in rows}.values())
    if len(once) < FEWEST:
        return []
    values = np.array([float(row.label) for row in once])
    inputs = np.stack([looks[row.key] for row in once]) if looks else [row.input for row in once]
    model = make_pipeline(_features(inputs), Ridge(alpha=len(once) if looks else 1.0))
    with threadpool_limits(1):
        expected = cross_val_predict(model, inputs, values, cv=KFold(FOLDS, shuffle=True, random_state=seed))
    residuals = np.abs(values - expected)
    usual = USUAL * float(np.median(residuals))
    if usual == 0:
        return []
    far = np.flatnonzero(residuals > FAR * usual)
    digits = 1 - math.floor(math.log10(usual))
    return [
        Outlier(once[index], round(float(expected[index]), digits), float(residuals[index] / usual))
        for index in far[np.argsort(-residuals[far], kind="stable")]
    ]


def _said(row: Row) -> str:
    """Of a picture the place says enough."""
    return row.place if row.content else f"{row.place}: {row.input[:60]!r}"


def _features(inputs: Sequence[str] | NDArray[np.uint8]) -> Any:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
    return StandardScaler() if isinstance(inputs, np.ndarray) else words


def off_diagonal(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Rows that confidently belong to another label, with that label; the widest margin first.

    Confidently means: with at least the probability that rows of the other label have for it on average.
    """
    rows = np.arange(len(labels))
    thresholds = np.array([probabilities[labels == label, label].mean() for label in range(probabilities.shape[1])])
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    other = confident.argmax(axis=1)
    margin = probabilities[rows, other] - probabilities[rows, labels]
    wrong = np.flatnonzero((confident.max(axis=1) >= 0) & (margin > 0))
    return [(int(row), int(other[row])) for row in wrong[np.argsort(-margin[wrong], kind="stable")]]
