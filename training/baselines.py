"""What the fine-tuned network has to beat, trained on the same rows and asked the same test part.

at random: each label as often as in training. majority: always the most frequent label. tf-idf: words and pairs of
words, logistic regression. colour histogram: the same for images. frozen backbone: the pre-trained network as it came,
logistic regression on its pooled vector.
"""

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Ints = NDArray[np.int64]
Reals = NDArray[np.float32]
ITERATIONS = 2000
SMALL, SHADES = 64, 16  # pixels of the side of a small copy, and ranges of each colour
WORDS = r"\b\w+\b|[!?]"  # one letter is a word too, and marks say something


def at_random(truth: Ints, rows: int, *, seed: int) -> Ints:
    return np.random.default_rng(seed).choice(truth, size=rows)


def majority(truth: Ints, rows: int) -> Ints:
    return np.full(rows, np.bincount(truth).argmax(), dtype=np.int64)


def tf_idf(train: Iterable[str], truth: Ints, test: Iterable[str]) -> Ints:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
    return _predict(vectorizer, LogisticRegression(C=3.0, max_iter=ITERATIONS), train, truth, test)


def colour_histogram(train: Iterable[bytes], truth: Ints, test: Iterable[bytes]) -> Ints:
    """On how much of each shade of red, green and blue there is in an encoded image, wherever it is."""
    model = LogisticRegression(C=1.0, max_iter=ITERATIONS)
    return _predict(StandardScaler(), model, shades(train), truth, shades(test))


def shades(contents: Iterable[bytes]) -> Reals:
    """(images, 3 times SHADES), of a small copy of each."""
    found = []
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB").resize((SMALL, SMALL)), dtype=np.int64)
        counts = [np.bincount(pixels[:, :, color].ravel() * SHADES // 256, minlength=SHADES) for color in range(3)]
        found.append(np.concatenate(counts) / SMALL**2)
    return np.array(found, dtype=np.float32)


def frozen_backbone(train: Reals, truth: Ints, test: Reals) -> Ints:
    """On pooled vectors (rows, width) of the network before it learned anything."""
    return _predict(StandardScaler(), LogisticRegression(C=0.1, max_iter=ITERATIONS), train, truth, test)


def _predict(first: object, model: object, train: object, truth: Ints, test: object) -> Ints:
    with threadpool_limits(1):  # products as small as these take thirty times as long on two threads
        fitted = make_pipeline(first, model).fit(train, truth)
        predicted: Ints = fitted.predict(test).astype(np.int64)
    return predicted


# The simple heuristic for each kind of input, over what it is read as.
SIMPLE: dict[str, tuple[str, Callable[[Iterable[Any], Ints, Iterable[Any]], Ints]]] = {
    "text": ("TF-IDF, linear", tf_idf),
    "image": ("colour histogram, linear", colour_histogram),
}
