"""A tiny image encoder with batch normalisation in every layer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.network import Encoder, Hidden


class Convolutions(Encoder):
    """Every layer halves the sides and doubles the width."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4 << i, 8 << i, 3, stride=2, padding=1), nn.BatchNorm2d(8 << i), nn.ReLU())
            for i in range(layers)
        )
        self.stem = nn.Conv2d(3, 4, 1)
        self.width = 4 << layers

    @property
    def layers(self) -> nn.ModuleList:
        return self.blocks

    def embed(self, pixels: Tensor) -> Hidden:  # type: ignore[override]
        return self._hidden(self.stem(pixels))

    def run(self, hidden: Hidden, layers: range) -> Hidden:
        side = math.isqrt(hidden.states.shape[1])
        maps = hidden.states.transpose(1, 2).reshape(len(hidden.states), -1, side, side)
        for index in layers:
            maps = self.blocks[index](maps)
        return self._hidden(maps)

    def pool(self, hidden: Hidden) -> Tensor:
        return hidden.states.mean(dim=1)

    def example(self) -> dict[str, Tensor]:
        return {"pixels": torch.zeros(2, 3, 16, 16)}

    def positions(self, lengths: Sequence[int], boundary: int) -> list[int]:
        return [(16 >> boundary) ** 2 for _ in lengths]

    @staticmethod
    def _hidden(maps: Tensor) -> Hidden:
        states = maps.flatten(2).transpose(1, 2)
        return Hidden(states, torch.ones(states.shape[:2], dtype=torch.long))
