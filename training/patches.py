"""Image networks of the timm library that see an image as a row of patches: ViT, DeiT, BEiT, EVA, MLP-Mixer.

pixels -> patches -> layers one by one -> the model's own pooling
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from regraft.preprocessing import ImageSpec
from training.network import Encoder, Hidden
from training.replay import Row, hidden_of, holds


class PatchEncoder(Encoder):
    """The model's own pass, cut between the layers that it calls one after the other; made by `of`."""

    def __init__(self, model: Any, row: Row, pixels: Tensor, width: int) -> None:
        super().__init__()
        self.model, self.width = model, width
        self._row, self._shape = row, tuple(pixels.shape[1:])
        self._positions = self.embed(pixels).states.shape[1]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, spec: ImageSpec) -> Self | None:
        """None for a model that does not call one layer after the other, or has most of its weights elsewhere."""
        pixels = torch.rand(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
        whole = model.eval()(pixels)
        row = Row.of(model, lambda: model.forward_features(pixels))
        if 2 * _weights(row.layers) < _weights([model]):
            return None
        encoder = cls(model, row, pixels, whole.shape[1])
        return encoder if holds(encoder, whole, pixels) else None

    @property
    def layers(self) -> nn.ModuleList:
        return nn.ModuleList(self._row.layers)

    def embed(self, pixels: Tensor) -> Hidden:  # type: ignore[override]
        """(batch, channels, height, width)"""
        return hidden_of(self._row.run(lambda: self._last(pixels), range(0)))

    def run(self, hidden: Hidden, layers: range) -> Hidden:
        if not layers:
            return hidden
        pixels = torch.zeros(len(hidden.states), *self._shape, device=hidden.states.device)
        return hidden_of(self._row.run(lambda: self._last(pixels), layers, hidden.states))

    def whole(self, pixels: Tensor) -> Hidden:  # type: ignore[override]
        return hidden_of(self._last(pixels))

    def pool(self, hidden: Hidden) -> Tensor:
        vectors: Tensor = self.model.forward_head(hidden.states, pre_logits=True)
        return vectors

    def example(self) -> dict[str, Tensor]:
        return {"pixels": torch.zeros(2, *self._shape)}

    def positions(self, lengths: Sequence[int], boundary: int) -> list[int]:
        del boundary
        return [self._positions] * len(lengths)

    def _last(self, pixels: Tensor) -> Tensor:
        states: Tensor = self.model.forward_features(pixels)
        return states


def _weights(modules: Sequence[nn.Module]) -> int:
    return sum(one.numel() for module in modules for one in module.parameters())
