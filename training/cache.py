"""What the frozen layers say of every example, computed once and kept without padding.

encodings -> batches of like length -> prefix -> (all positions, width) in memory, or memory-mapped when it is large
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.preprocessing import Encoded
from training.inference import infer
from training.network import Hidden, Network
from training.processes import ALONE, Team

PREFIX_BATCH = 32


class Collates(Protocol):
    def collate(self, encodings: Sequence[Any], /) -> dict[str, NDArray[Any]]: ...


@dataclass(frozen=True)
class HiddenStates:
    """The hidden states at the frozen boundary of `len(self)` examples, one after the other."""

    states: Tensor  # (all positions, width)
    starts: Tensor  # (examples + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()

    def batch(self, indices: Sequence[int]) -> Hidden:
        """These examples, padded with 0 to the longest."""
        lengths = self.lengths[list(indices)]
        states = torch.zeros(len(indices), int(lengths.max()), self.states.shape[1])
        for row, index in enumerate(indices):
            states[row, : lengths[row]] = self.states[self.starts[index] : self.starts[index + 1]]
        mask = torch.arange(states.shape[1]) < lengths[:, None]
        return Hidden(states, mask.long())

    def some(self, indices: Sequence[int]) -> "HiddenStates":
        """A copy of these examples'."""
        states = torch.cat([self.states[self.starts[index] : self.starts[index + 1]] for index in indices])
        return HiddenStates(states, nn.functional.pad(self.lengths[list(indices)].cumsum(0), (1, 0)))


def batches_by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of `size`, neighbours in length together, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def hidden_states(
    network: Network,
    preprocessor: Collates,
    encodings: Sequence[Encoded],
    *,
    dtype: torch.dtype,
    cache_bytes: int,
    file: Path,
    team: Team = ALONE,
) -> HiddenStates:
    """Run the prefix over all `encodings`. More than `cache_bytes` go to a memory map in `file`.

    Of several processes each fills its share of the one memory map that all of their machine read.
    """
    lengths = [encoding.length for encoding in encodings]
    starts = torch.from_numpy(np.cumsum([0, *network.encoder.positions(lengths, network.boundary)]))
    states: Tensor | None = None
    device = network.head.weight.device
    network.learning_mode(on=False)

    def keep(indices: list[int]) -> None:
        nonlocal states
        tensors = preprocessor.collate([encodings[index] for index in indices])
        inputs = [torch.from_numpy(values).to(device) for values in tensors.values()]
        hidden = network.prefix(*inputs).states.cpu()
        if states is None:
            in_memory = cache_bytes if team.local_count == 1 else 0
            states = _room(int(starts[-1]), hidden.shape[2], dtype, in_memory, file)
        for row, index in enumerate(indices):
            states[starts[index] : starts[index + 1]] = hidden[row, : starts[index + 1] - starts[index]]

    first, *others = batches_by_length(lengths, PREFIX_BATCH)
    infer(keep, [first], dtype, device)  # which makes room for all
    infer(keep, others[team.local_index :: team.local_count][::-1], dtype, device)  # the longest are not left for last
    team.wait()
    assert states is not None, "there are no examples"
    return HiddenStates(states, starts)


def _room(positions: int, width: int, dtype: torch.dtype, cache_bytes: int, file: Path) -> Tensor:
    size = positions * width
    if size * dtype.itemsize <= cache_bytes:
        return torch.empty(positions, width, dtype=dtype)
    file.parent.mkdir(parents=True, exist_ok=True)
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(positions, width)
