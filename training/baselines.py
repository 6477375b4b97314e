"""What the fine-tuned network has to beat, trained on the same rows and asked the same test part.

at random: each answer as often as in training. majority: always the most frequent label. the mean, the median: always
the same number. tf-idf: words and pairs of words, a linear model. colour histogram: the same for images. frozen
backbone: the pre-trained network as it came, a linear model on its pooled vector. The linear model is that of the
target: logistic or ridge regression.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from regraft.preprocessing.image import decode
from regraft.versions import Metric

Ints = NDArray[np.int64]
Reals = NDArray[np.float32]
Answers = NDArray[Any]  # (rows,), as the target reads them
Linear = Callable[[float], Any]  # strength, the inverse of regularisation -> a model
ITERATIONS = 2000
FROZEN = 0.1  # strength on vectors of hundreds of numbers
SMALL, SHADES = 64, 16  # pixels of the side of a small copy, and ranges of each colour
WORDS = r"\b\w+\b|[!?]"  # one letter is a word too, and marks say something


def at_random(truth: Answers, rows: int, *, seed: int) -> Answers:
    return np.random.default_rng(seed).choice(truth, size=rows)


def majority(truth: Ints, rows: int) -> Ints:
    return np.full(rows, np.argmax(np.bincount(truth)), dtype=np.int64)


def tf_idf(linear: Linear, train: Iterable[str], truth: Answers, test: Iterable[str]) -> Answers:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
    return _predict(vectorizer, linear(3.0), train, truth, test)


def colour_histogram(linear: Linear, train: Iterable[bytes], truth: Answers, test: Iterable[bytes]) -> Answers:
    """On how much of each shade of red, green and blue there is in an encoded image, wherever it is."""
    return _predict(StandardScaler(), linear(1.0), shades(train), truth, shades(test))


def shades(contents: Iterable[bytes]) -> Reals:
    """(images, 3 times SHADES), of a small copy of each."""
    found = []
    for content in contents:
        pixels = np.asarray(decode(content, 3, SMALL).resize((SMALL, SMALL)), dtype=np.int64)
        counts = [np.bincount(pixels[:, :, color].ravel() * SHADES // 256, minlength=SHADES) for color in range(3)]
        found.append(np.concatenate(counts) / SMALL**2)
    return np.array(found, dtype=np.float32)


def frozen_backbone(linear: Linear, train: Reals, truth: Answers, test: Reals) -> Answers:
    """On pooled vectors (rows, width) of the network before it learned anything."""
    return _predict(StandardScaler(), linear(FROZEN), train, truth, test)


def _predict(first: object, model: object, train: object, truth: Answers, test: object) -> Answers:
    with threadpool_limits(1):  # products as small as these take thirty times as long on two threads
        fitted = make_pipeline(first, model).fit(train, truth)
        predicted: Answers = fitted.predict(test).astype(truth.dtype)
    return predicted


class Comparing(Protocol):
    """As much of training/targets as is needed here."""

    def evaluate(self, truth: Answers, read: Answers, *, resamples: int, seed: int) -> dict[str, Metric]: ...

    def compare(
        self, truth: Answers, ours: Answers, theirs: Answers, *, resamples: int, seed: int
    ) -> dict[str, Metric]: ...


def beside(
    target: Comparing, truth: Answers, ours: Answers, others: Mapping[str, Answers], *, resamples: int, seed: int
) -> dict[str, dict[str, Metric]]:
    """The averaged metrics of each baseline, and how much better ours is: `gain/accuracy` and so on."""
    results: dict[str, dict[str, Metric]] = {}
    for name, theirs in others.items():
        metrics = target.evaluate(truth, theirs, resamples=resamples, seed=seed)
        gains = target.compare(truth, ours, theirs, resamples=resamples, seed=seed)
        results[name] = {key: metrics[key] for key in gains} | {f"gain/{key}": gain for key, gain in gains.items()}
    return results


class Heuristic(NamedTuple):
    """The simple way for a kind of input, over what it is read as."""

    name: str
    answers: Callable[[Linear, Iterable[Any], Answers, Iterable[Any]], Answers]


SIMPLE = {
    "text": Heuristic("TF-IDF, linear", tf_idf),
    "image": Heuristic("colour histogram, linear", colour_histogram),
}
