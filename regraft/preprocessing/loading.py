"""The preprocessor that a version's folder describes, whatever its kind of input."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from regraft.preprocessing.image import ImagePreprocessor
from regraft.preprocessing.text import SPEC_FILE, TextPreprocessor


class Encoded(Protocol):
    """One input, ready to be put into a batch; those of like length waste least together."""

    @property
    def length(self) -> int: ...


class Preprocessor(Protocol):
    """From inputs of one kind (texts, encoded images) to the tensors of the network, safe to use from several threads.
    `Any` stands for that kind, and for the kind of encoding that comes of it."""

    @property
    def sha256(self) -> str: ...

    def check(self, one: Any, /) -> None: ...

    def encode(self, inputs: Sequence[Any], /) -> Sequence[Any]: ...

    def collate(self, encodings: Sequence[Any], /) -> dict[str, NDArray[Any]]: ...

    def save(self, folder: Path) -> None: ...


def load_preprocessor(folder: Path) -> TextPreprocessor | ImagePreprocessor:
    """Raises whatever reading, JSON or the specification itself raises where the folder holds none."""
    kind = json.loads((folder / SPEC_FILE).read_bytes())["kind"]
    return ImagePreprocessor.load(folder) if kind == "image" else TextPreprocessor.load(folder)


def fingerprint(tensor: NDArray[Any]) -> str:
    """Equal for tensors of one type and shape that are equal to the bit, and no others."""
    told = f"{tensor.dtype.str} {tensor.shape} ".encode()
    return f"sha256:{hashlib.sha256(told + tensor.tobytes()).hexdigest()}"
