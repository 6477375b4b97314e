"""The columns that drift is watched on: facts of the input, the model's features, what it answered and how surely."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.preprocessing import descriptors

CATEGORICAL = ("label",)


def drift_columns(
    *,
    inputs: Sequence[str | None],
    features: Sequence[Sequence[float]],
    labels: Sequence[str],
    confidences: Sequence[float],
) -> dict[str, NDArray[Any]]:
    """Columns of shape (rows,). The descriptors of an input that was redacted are `nan`, and count as missing."""
    described = [descriptors(text) if text is not None else {} for text in inputs]
    columns: dict[str, NDArray[Any]] = {
        name: np.array([row.get(name, np.nan) for row in described]) for name in descriptors("")
    }
    table = np.array(features, dtype=float).reshape(len(labels), -1)  # (rows, features)
    columns |= {f"feature_{index}": table[:, index] for index in range(table.shape[1])}
    return columns | {"label": np.array(labels, dtype=str), "confidence": np.array(confidences, dtype=float)}
