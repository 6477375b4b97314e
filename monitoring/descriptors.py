"""The columns that drift is watched on: facts of the input, the model's features, what it answered and how surely."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.answers import Kind
from regraft.errors import InvalidInput, NotFound
from regraft.inputs import InputStore
from regraft.preprocessing import describe_image, descriptors
from regraft.preprocessing.image import FACTS

CATEGORICAL = ("label",)
NAMES = {"text": tuple(descriptors("")), "image": FACTS}  # of the facts of an input, by the task's kind


def text_facts(text: str | None) -> Mapping[str, float]:
    """Nothing of a text that was redacted."""
    return {} if text is None else descriptors(text)


def image_facts(reference: str | None, store: InputStore) -> Mapping[str, float]:
    """Nothing of an image that was redacted or is gone."""
    try:
        return {} if reference is None else describe_image(store.read(reference))
    except (NotFound, InvalidInput):
        return {}


def drift_columns(
    *,
    names: Sequence[str],
    facts: Sequence[Mapping[str, float]],
    features: Sequence[Sequence[float]],
    labels: Sequence[str],
    confidences: Sequence[float],
    kind: Kind = "classification",
) -> dict[str, NDArray[Any]]:
    """Columns of shape (rows,): the facts of these names, and the rest; what was answered is `label`, or `value` of a
    regression. Facts that are not known are `nan`, missing."""
    columns: dict[str, NDArray[Any]] = {name: np.array([row.get(name, np.nan) for row in facts]) for name in names}
    table = np.array(features, dtype=float).reshape(len(labels), -1)  # (rows, features)
    columns |= {f"feature_{index}": table[:, index] for index in range(table.shape[1])}
    said = {"label": np.array(labels, dtype=str)} if kind == "classification" else {"value": np.array(labels, float)}
    return columns | said | {"confidence": np.array(confidences, dtype=float)}
