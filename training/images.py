"""Image networks of the timm library, taken apart: a stem, and layers one by one.

pixels -> stem -> feature maps -> layers; the places of a map are the positions of `Hidden`, and the mean over them is
the vector of an image.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same_arg
from timm.models import adapt_input_conv
from torch import Tensor, nn

from regraft.errors import ConfigError
from regraft.preprocessing import ImageSpec
from training.backbone import BackboneCard
from training.network import Encoder, Hidden
from training.patches import PatchEncoder
from training.pictures import timm_config
from training.replay import PROBE_TOLERANCE, hidden_of

POOLING = frozenset({"global_pool", "head", "fc", "classifier"})  # from here on timm's models classify


class ImageEncoder(Encoder):
    """A timm model whose modules stand in a row can be cut between any two blocks; of another, only what comes after
    its pooled vector learns."""

    def __init__(self, model: nn.Module, spec: ImageSpec) -> None:
        super().__init__()
        probe = torch.rand(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
        model.eval()
        _fix_padding(model, probe)
        stem, layers = _anatomy(model)
        if layers and _is_row(model, [*stem, *layers], probe):
            self.stem: nn.Module = nn.Sequential(*stem)
            self.blocks = nn.ModuleList(layers)
        else:
            self.stem, self.blocks = _Pooled(model), nn.ModuleList()
        self.to(memory_format=torch.channels_last)  # 4 times as fast on processors
        with torch.no_grad():
            maps = [self.stem(probe)]
            for layer in self.blocks:
                maps.append(layer(maps[-1]))
        # Swin and its kin have feature maps of (batch, height, width, channels).
        self._channels_last = bool(self.blocks) and maps[-1].shape[1] != model.num_features
        # Height and width of the feature maps below each layer, and at the end.
        self._sides = [one.shape[1:3] if self._channels_last else one.shape[2:4] for one in maps]
        self.width = int(maps[-1].shape[3 if self._channels_last else 1])
        self._shape = tuple(probe.shape[1:])

    @classmethod
    def load(cls, card: BackboneCard, spec: ImageSpec) -> Encoder:
        """With the pre-trained weights, of feature maps or of patches. Raises ConfigError where the weights are not
        those of the architecture."""
        options = timm_config(card.folder).get("model_args") or {}
        try:
            model = timm.create_model(card.model_type, num_classes=0, in_chans=spec.channels, **options)
            files = sorted(card.folder.glob("*.safetensors"))
            weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
            _fit_channels(weights, model, timm_config(card.folder)["pretrained_cfg"]["input_size"][0], spec.channels)
            missing, _ = model.load_state_dict(weights, strict=False)
        except Exception as error:  # timm raises many kinds
            raise ConfigError(f"the backbone {card.source} cannot be loaded: {error}") from error
        if missing:
            raise ConfigError(f"the backbone {card.source} lacks weights, among them {missing[0]}")
        encoder = cls(model, spec)
        return encoder if encoder.blocks else PatchEncoder.of(model, spec) or encoder

    @property
    def layers(self) -> nn.ModuleList:
        return self.blocks

    def embed(self, pixels: Tensor) -> Hidden:  # type: ignore[override]
        """(batch, channels, height, width)"""
        return self._hidden(self.stem(pixels.contiguous(memory_format=torch.channels_last)))

    def run(self, hidden: Hidden, layers: range) -> Hidden:
        if not layers:
            return hidden
        height, width = self._sides[layers.start]
        maps = hidden.states.reshape(len(hidden.states), height, width, -1)
        if not self._channels_last:
            maps = maps.permute(0, 3, 1, 2)  # a view, which processors want channels last
        for index in layers:
            maps = self.blocks[index](maps)
        return self._hidden(maps)

    def whole(self, pixels: Tensor) -> Hidden:  # type: ignore[override]
        return self._hidden(
            nn.Sequential(self.stem, *self.blocks)(pixels.contiguous(memory_format=torch.channels_last))
        )

    def pool(self, hidden: Hidden) -> Tensor:
        return hidden.states.mean(dim=1)

    def positions(self, lengths: Sequence[int], boundary: int) -> list[int]:
        height, width = self._sides[boundary]
        return [height * width] * len(lengths)

    def example(self) -> dict[str, Tensor]:
        return {"pixels": torch.zeros(2, *self._shape)}

    def _hidden(self, maps: Tensor) -> Hidden:
        return hidden_of(maps.flatten(1, 2) if self._channels_last else maps.flatten(2).transpose(1, 2))


class _Pooled(nn.Module):
    """A whole model up to its pooled vector, as a feature map of one place."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        pooled: Tensor = self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)
        return pooled[:, :, None, None]


class _Padded(nn.Conv2d):
    """A convolution that pads as TensorFlow does, for inputs of one size: its padding is known, where timm's reckons
    anew for each input, which no graph optimiser gets rid of."""

    def __init__(self, conv: Conv2dSame, side: Sequence[int]) -> None:
        window = {"kernel_size": conv.kernel_size, "stride": conv.stride, "dilation": conv.dilation}
        super().__init__(conv.in_channels, conv.out_channels, groups=conv.groups, **window)  # type: ignore[arg-type]
        self.weight, self.bias = conv.weight, conv.bias
        self.edges = pad_same_arg(list(side), *(list(one) for one in window.values()))  # left, right, top, bottom

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(maps, self.edges, value=0.0))


def _fit_channels(weights: dict[str, Tensor], model: Any, seen: int, wanted: int) -> None:
    """Of weights for `seen` channels make those for `wanted`: the first convolution's are summed, or repeated."""
    first = model.pretrained_cfg.get("first_conv") or ()
    for name in (first,) if isinstance(first, str) else first:
        weights[f"{name}.weight"] = adapt_input_conv(wanted, weights[f"{name}.weight"], seen)


def _fix_padding(model: nn.Module, probe: Tensor) -> None:
    """For inputs of the size of `probe`."""
    sides: dict[nn.Module, Sequence[int]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        sides[module] = inputs[0].shape[-2:]

    ways = {name: module for name, module in model.named_modules() if isinstance(module, Conv2dSame)}
    hooks = [module.register_forward_pre_hook(note) for module in ways.values()]
    with torch.no_grad():
        model(probe)
    for hook in hooks:
        hook.remove()
    for name, module in ways.items():
        model.set_submodule(name, _Padded(module, sides[module]))


def _anatomy(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """What stands before the first row of blocks, and from there on each block; what follows the last is one more."""
    stem: list[nn.Module] = []
    layers: list[nn.Module] = []
    after: list[nn.Module] = []
    for name, child in model.named_children():
        if name in POOLING:
            break
        if isinstance(child, nn.Sequential) and len(child) > 0:
            layers += [*after, *_blocks(child)]
            after = []
        else:
            (after if layers else stem).append(child)
    return stem, [*layers, *([nn.Sequential(*after)] if after else [])]


def _blocks(row: nn.Sequential) -> Iterator[nn.Module]:
    for child in row:
        if isinstance(child, nn.Sequential) and len(child) > 0:
            yield from _blocks(child)
        else:
            yield child


def _is_row(model: Any, modules: Sequence[nn.Module], probe: Tensor) -> bool:
    """Whether going through the modules one by one is what the model itself does."""
    maps = probe
    with torch.no_grad():
        whole = model.forward_features(probe)
        try:
            for module in modules:
                maps = module(maps)
        except (TypeError, RuntimeError, ValueError):
            return False
    if maps.dim() != 4 or maps.shape != whole.shape or model.num_features not in (maps.shape[1], maps.shape[3]):
        return False
    return bool((maps - whole).abs().max() <= PROBE_TOLERANCE)
