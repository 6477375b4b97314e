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
from training.text import PROBE_TOLERANCE, plain_attention, pretrained


class VisionEncoder(Encoder):
    """The vector of an image is the mean over what the network says of its patches.

    ViT, DeiT, DINOv2, BEiT and their like can be cut between any two layers. Of any other model, only what comes after
    its pooled vector learns.
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
        self._can_be_cut = True
        with torch.no_grad():
            whole = self._whole(self._example)
            self._can_be_cut = self._is_row(whole)
            self.width, self._positions = whole.shape[2], self.embed(self._example).states.shape[1]

    @classmethod
    def load(cls, card: BackboneCard, spec: ImageSpec) -> "VisionEncoder":
        """The pre-trained weights, all of them. Raises ConfigError where some are missing."""
        model = pretrained(card)
        model = getattr(model, "vision_model", model)  # of one that knows texts too, as CLIP does
        return cls(_fitted(model, spec.channels), spec)

    @property
    def layers(self) -> nn.ModuleList:
        """None where the model cannot be cut."""
        for holder in (self.model, getattr(self.model, "encoder", None)) if self._can_be_cut else ():
            for name in ("layer", "layers"):
                if isinstance(found := getattr(holder, name, None), nn.ModuleList):
                    return found
        return nn.ModuleList()

    def embed(self, pixels: Tensor) -> Hidden:  # type: ignore[override]
        """(batch, channels, height, width)"""
        states = self.model.embeddings(pixels) if len(self.layers) else self._whole(pixels)
        return Hidden(states, torch.ones(states.shape[:2], dtype=torch.long))

    def run(self, hidden: Hidden, layers: range) -> Hidden:
        states = hidden.states
        for index in layers:
            states = self.layers[index](states)
        return Hidden(states, hidden.mask)

    def pool(self, hidden: Hidden) -> Tensor:
        """After the norm that some architectures end with."""
        norm = getattr(self.model, "layernorm", None) if len(self.layers) else None
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

    def _is_row(self, whole: Tensor) -> bool:
        """Whether going through the layers one by one is what the model itself does."""
        try:
            ours = self.pool(self.run(self.embed(self._example), range(len(self.layers))))
        except (TypeError, RuntimeError, AttributeError):
            return False
        return ours.shape == whole[:, 0].shape and bool((ours - whole.mean(dim=1)).abs().max() <= PROBE_TOLERANCE)


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
