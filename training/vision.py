"""Image networks of the transformers library, taken apart: patches, and layers one by one."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from regraft.errors import ConfigError
from regraft.preprocessing import ImageSpec
from training.backbone import BackboneCard
from training.network import Encoder, Hidden
from training.replay import Row, hidden_of, holds
from training.text import plain_attention, pretrained


class VisionEncoder(Encoder):
    """The vector of an image is the mean over what the network says of its patches.

    ViT, DeiT, DINOv2, BEiT and their like are gone through layer by layer. Any other model is run as it is, and cut
    where it calls one layer after the other (training/replay.py); of one that does not, only what comes after its
    pooled vector learns.
    """

    def __init__(self, model: Any, spec: ImageSpec) -> None:
        """`model` is of the transformers library. Raises ConfigError for one that takes no images of `spec`."""
        super().__init__()
        pooler = getattr(model, "pooler", None)
        if pooler is not None and list(pooler.parameters()):  # some models always call one that has none
            model.pooler = None  # the mean over patches stands in its place
        self.model = model.eval()
        self._example = torch.rand(
            2, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0)
        )
        self._row: Row | None = None  # None: its layers need nothing but states
        self._layers = list(_layers(model))
        with torch.no_grad():
            whole = self._whole(self._example)
            self._find_layers(whole.mean(dim=1))
            self.width, self._positions = whole.shape[2], self.embed(self._example).states.shape[1]

    def _find_layers(self, whole: Tensor) -> None:
        if self._layers and holds(self, whole, self._example):
            return
        self._row = Row.of(self.model, lambda: self._whole(self._example))
        self._layers = self._row.layers
        if not holds(self, whole, self._example):
            self._row, self._layers = Row(), []

    @classmethod
    def load(cls, card: BackboneCard, spec: ImageSpec) -> "VisionEncoder":
        """The pre-trained weights, all of them. Raises ConfigError where some are missing."""
        model = pretrained(card)
        model = getattr(model, "vision_model", model)  # of one that knows texts too, as CLIP does
        return cls(_fitted(model, spec.channels), spec)

    @property
    def layers(self) -> nn.ModuleList:
        """None where the model cannot be cut."""
        return nn.ModuleList(self._layers)

    def embed(self, pixels: Tensor) -> Hidden:  # type: ignore[override]
        """(batch, channels, height, width)"""
        if self._row is None:
            return hidden_of(self.model.embeddings(pixels))
        return hidden_of(self._row.run(lambda: self._whole(pixels), range(0)))

    def run(self, hidden: Hidden, layers: range) -> Hidden:
        states = hidden.states
        if self._row is None:
            for index in layers:
                states = self._layers[index](states)
        elif layers:
            pixels = torch.zeros(len(states), *self._example.shape[1:], device=states.device)
            states = self._row.run(lambda: self._whole(pixels), layers, states)
        return Hidden(states, hidden.mask)

    def whole(self, pixels: Tensor) -> Hidden:  # type: ignore[override]
        return super().whole(pixels) if self._row is None else hidden_of(self._whole(pixels))

    def pool(self, hidden: Hidden) -> Tensor:
        """After the norm that some architectures end with."""
        norm = getattr(self.model, "layernorm", None) if self._row is None else None
        return (norm(hidden.states) if norm is not None else hidden.states).mean(dim=1)

    def example(self) -> dict[str, Tensor]:
        return {"pixels": self._example}

    def positions(self, lengths: Sequence[int], boundary: int) -> list[int]:
        del boundary
        return [self._positions] * len(lengths)

    def exporting(self) -> AbstractContextManager[None]:
        return plain_attention(self.model)

    def _whole(self, pixels: Tensor) -> Tensor:
        """(batch, positions, width), be they patches or the places of a feature map."""
        try:
            states: Tensor = self.model(pixel_values=pixels).last_hidden_state
        except (TypeError, RuntimeError, AttributeError, ValueError) as error:
            kind = self.model.config.model_type
            raise ConfigError(
                f"the architecture '{kind}' takes no images as its preprocessor makes them: {error}"
            ) from error
        return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states


def _layers(model: Any) -> nn.ModuleList:
    """Wherever this architecture keeps them; none where that is unknown."""
    for holder in (model, getattr(model, "encoder", None)):
        for name in ("layer", "layers"):
            if isinstance(found := getattr(holder, name, None), nn.ModuleList):
                return found
    return nn.ModuleList()


def _fitted(model: Any, channels: int) -> Any:
    """To pictures of so many channels: the first convolution's weights are summed, or repeated. Raises ConfigError."""
    seen = getattr(model.config, "num_channels", channels)
    if seen == channels:
        return model
    config = copy.deepcopy(model.config)
    config.num_channels = channels
    fitted, weights = type(model)(config), model.state_dict()
    try:
        for name, value in fitted.state_dict().items():
            if value.shape != weights[name].shape:
                weights[name] = adapt_input_conv(channels, weights[name], seen)
    except NotImplementedError as error:
        kind = config.model_type
        raise ConfigError(f"the architecture '{kind}' cannot be fitted to {channels} channels: {error}") from error
    fitted.load_state_dict(weights)
    return fitted
