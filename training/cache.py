"""What the frozen layers say of every example, computed once and kept without padding.

encodings -> batches of like length -> prefix -> (all tokens, width) in memory, or memory-mapped when it is large
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regraft.preprocessing import Encoding, TextPreprocessor
from training.network import Network
from training.precision import computing

PREFIX_BATCH = 32


class Batch(NamedTuple):
    hidden: Tensor  # (batch, tokens, width), what is padding is 0
    mask: Tensor  # (batch, tokens)


@dataclass(frozen=True)
class HiddenStates:
    """The hidden states at the frozen boundary of `len(self)` examples, one after the other."""

    tokens: Tensor  # (all tokens, width)
    starts: Tensor  # (examples + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()

    def batch(self, indices: Sequence[int]) -> Batch:
        """These examples, padded to the longest."""
        lengths = self.lengths[list(indices)]
        hidden = torch.zeros(len(indices), int(lengths.max()), self.tokens.shape[1])
        for row, index in enumerate(indices):
            hidden[row, : lengths[row]] = self.tokens[self.starts[index] : self.starts[index + 1]]
        mask = torch.arange(hidden.shape[1]) < lengths[:, None]
        return Batch(hidden, mask.long())


def batches_by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of `size`, neighbours in length together, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def hidden_states(
    network: Network,
    preprocessor: TextPreprocessor,
    encodings: Sequence[Encoding],
    *,
    dtype: torch.dtype,
    cache_bytes: int,
    file: Path,
) -> HiddenStates:
    """Run the prefix over all `encodings`. More than `cache_bytes` go to a memory map in `file`."""
    lengths = [encoding.length for encoding in encodings]
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    tokens = _room(sum(lengths), network.width, dtype, cache_bytes, file)
    network.learning_mode(on=False)
    with torch.no_grad(), computing(dtype):
        for indices in batches_by_length(lengths, PREFIX_BATCH):
            tensors = preprocessor.collate([encodings[index] for index in indices])
            hidden = network.prefix(*(torch.from_numpy(tensors[name]) for name in ("input_ids", "attention_mask")))
            for row, index in enumerate(indices):
                tokens[starts[index] : starts[index + 1]] = hidden[row, : lengths[index]]
    return HiddenStates(tokens, starts)


def _room(tokens: int, width: int, dtype: torch.dtype, cache_bytes: int, file: Path) -> Tensor:
    size = tokens * width
    if size * dtype.itemsize <= cache_bytes:
        return torch.empty(tokens, width, dtype=dtype)
    file.parent.mkdir(parents=True, exist_ok=True)
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(tokens, width)
