"""The processes that train one network together, each on its part of every batch; most often there is one.

`accelerate launch` or `torchrun` start them. All hold the same weights: gradients are added up before each step. Batch
normalisation goes by what a process has of a batch; its running statistics are then the mean over all processes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """Who this process is. `local` is among those on the same machine, which share its files."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        return self.index == 0

    @property
    def part(self) -> slice:
        """Of any row of things, this process's; none where there are fewer things than processes."""
        return slice(self.index, None, self.count)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes, in place, the sum over all processes."""
        if self.count == 1 or not tensors:
            return
        together = torch.cat([tensor.flatten() for tensor in tensors]).to(self.device)
        torch.distributed.all_reduce(together)
        for tensor, part in zip(tensors, torch.split(together, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes, in place, the mean over all processes."""
        if self.count == 1:
            return
        self.add_up(tensors)
        for tensor in tensors:
            tensor /= self.count

    def agree(self, value: T) -> T:
        """What the first process says."""
        said = [value]
        if self.count > 1:
            torch.distributed.broadcast_object_list(said, device=self.device)
        return said[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()


ALONE = Team()


def join() -> Team:
    """As the environment says, which the launcher has set. Alone, it takes the GPU if there is one."""
    from accelerate import PartialState  # takes a second, and tests of the loop need none of it

    state = PartialState(cpu=not torch.cuda.is_available())
    return Team(
        index=state.process_index,
        count=state.num_processes,
        local_index=state.local_process_index,
        local_count=int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes)),
        device=state.device,
    )
