"""What the fine-tuned network has to beat, trained on the same rows and asked the same test part.

majority: always the most frequent label. tf-idf: words and pairs of words, logistic regression. frozen backbone: the
pre-trained network as it came, logistic regression on its pooled vector.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Ints = NDArray[np.int64]
Reals = NDArray[np.float32]
ITERATIONS = 2000
WORDS = r"\b\w+\b|[!?]"  # one letter is a word too, and marks say something


def majority(truth: Ints, rows: int) -> Ints:
    return np.full(rows, np.bincount(truth).argmax(), dtype=np.int64)


def tf_idf(train: Sequence[str], truth: Ints, test: Sequence[str]) -> Ints:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
    return _predict(vectorizer, LogisticRegression(C=3.0, max_iter=ITERATIONS), train, truth, test)


def frozen_backbone(train: Reals, truth: Ints, test: Reals) -> Ints:
    """On pooled vectors (rows, width) of the network before it learned anything."""
    return _predict(StandardScaler(), LogisticRegression(C=0.1, max_iter=ITERATIONS), train, truth, test)


def _predict(first: object, model: object, train: object, truth: Ints, test: object) -> Ints:
    fitted = make_pipeline(first, model).fit(train, truth)
    predicted: Ints = fitted.predict(test).astype(np.int64)
    return predicted
