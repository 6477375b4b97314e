"""The network: a pre-trained encoder cut at the frozen boundary, and a new head on what it says on average.

    inputs -> prefix (embeddings, frozen layers) -> hidden -> suffix (layers that learn) -> pooled -> head -> logits

Whatever lies in the prefix never changes in a stage, so its output is computed once; see training/stages.py. Which
layers there are and how inputs go through them, a subclass of `Encoder` knows, one for each kind of input.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

DROPOUT = 0.1
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Hidden(NamedTuple):
    """What a layer passes on, whatever the input was: its tokens, or the places of its feature map."""

    states: Tensor  # (batch, positions, width of this layer)
    mask: Tensor  # (batch, positions), 0 where a position is padding

    def to(self, device: torch.device) -> "Hidden":
        return Hidden(self.states.to(device), self.mask.to(device))


class Output(NamedTuple):
    pooled: Tensor  # (batch, width)
    adapted: Tensor  # (batch, width), what the head sees: the same where there is no adapter
    logits: Tensor  # (batch, labels); of numbers one, in deviations


@dataclass(frozen=True)
class Group:
    """Modules that share a learning rate; `depth` 0 is the head, 1 the last layer, and so on down."""

    name: str
    depth: int
    modules: list[nn.Module]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.modules for parameter in module.parameters()]


class Encoder(nn.Module, ABC):
    """A pre-trained backbone as a row of layers, between any two of which it can be cut."""

    width: int  # of the pooled vector

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """What is frozen or learns, from the input upwards. What comes before them never learns."""

    @abstractmethod
    def embed(self, *inputs: Tensor) -> Hidden:
        """The preprocessor's tensors, in its order -> what the first layer takes."""

    @abstractmethod
    def run(self, hidden: Hidden, layers: range) -> Hidden:
        """Through these layers."""

    def whole(self, *inputs: Tensor) -> Hidden:
        """Through all of them, as the exported graph does: a cut would stay in it as changes of shape."""
        return self.run(self.embed(*inputs), range(len(self.layers)))

    @abstractmethod
    def pool(self, hidden: Hidden) -> Tensor:
        """What the last layer says -> (batch, width)."""

    @abstractmethod
    def example(self) -> dict[str, Tensor]:
        """Any two inputs, by the names that the preprocessor gives its tensors."""

    def positions(self, lengths: Sequence[int], boundary: int) -> list[int]:
        """How many positions inputs of these lengths have below the layer `boundary`: in a text, one for each token."""
        del boundary
        return list(lengths)

    def exporting(self) -> AbstractContextManager[None]:
        """Within it the graph is simpler and the answers are the same; afterwards all is as it was."""
        return nullcontext()


class Network(nn.Module):
    def __init__(self, encoder: Encoder, *, labels: int, frozen: float, seed: int, adapter: int = 0) -> None:
        """A fresh head on `encoder`, whose first share of `frozen` layers does not learn; `adapter` layers between."""
        super().__init__()
        torch.manual_seed(seed)  # the first weights of what is new
        self.encoder = encoder
        self.adapter = nn.Sequential(*(AdapterLayer(encoder.width) for _ in range(adapter)))
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(encoder.width, labels)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.boundary = self.resting = 0
        self.unfreeze(boundary_of(frozen, len(encoder.layers)))

    @property
    def width(self) -> int:
        return self.encoder.width

    def drop_out(self, share: float) -> None:
        """Leave out so much of what the encoder's layers pass on while they learn; the head keeps its own dropout."""
        for module in self.encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = share

    def description(self) -> dict[str, Any]:
        learning = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return {
            "layers": len(self.encoder.layers),
            "frozen_layers": self.boundary,
            "adapter_layers": len(self.adapter),
            "parameters": {"total": sum(p.numel() for p in self.parameters()), "learning": learning},
        }

    def unfreeze(self, boundary: int) -> None:
        """From now on the layers from `boundary` upwards learn, and no others."""
        self.boundary = boundary
        self.rest(0)

    def rest(self, layers: int) -> None:
        """Of those that learn so many, from the lowest, stay for now as they are; no gradient goes as far down."""
        self.resting = layers
        self.requires_grad_(False)
        for group in self.moving():
            for parameter in group.parameters:
                parameter.requires_grad_(True)

    def groups(self) -> list[Group]:
        """What learns, from the head downwards."""
        layers = list(self.encoder.layers)
        groups = [Group("head", 0, [self.head, self.adapter])]
        for depth, layer in enumerate(reversed(layers[self.boundary :]), start=1):
            groups.append(Group(f"layer {len(layers) - depth}", depth, [layer]))
        return groups

    def moving(self) -> list[Group]:
        """Those of them that do not rest."""
        groups = self.groups()
        return groups[: len(groups) - self.resting]

    def prefix(self, *inputs: Tensor) -> Hidden:
        """The preprocessor's tensors -> hidden states at the boundary."""
        return self.encoder.run(self.encoder.embed(*inputs), range(self.boundary))

    def suffix(self, hidden: Hidden) -> Output:
        """Hidden states at the boundary -> pooled vector and logits."""
        return self._output(self.encoder.run(hidden, range(self.boundary, len(self.encoder.layers))))

    def forward(self, *inputs: Tensor) -> Output:
        return self._output(self.encoder.whole(*inputs))

    def _output(self, last: Hidden) -> Output:
        pooled = self.encoder.pool(last)
        adapted = self.adapter(pooled)
        return Output(pooled, adapted, self.head(self.dropout(adapted)))

    def learning_mode(self, on: bool) -> None:
        """Dropout works and batch statistics move where layers learn alone: below, the function stays the same."""
        self.eval()
        for group in self.moving():
            for module in group.modules:
                module.train(on)
        self.dropout.train(on)

    @property
    def has_batch_norms(self) -> bool:
        """In its last layer."""
        return any(isinstance(module, BATCH_NORMS) for layer in self.encoder.layers[-1:] for module in layer.modules())

    def hold_statistics(self) -> None:
        """Batch normalisation goes by its running statistics, and leaves them: one row has none of its own."""
        for module in self.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()

    def moving_statistics(self) -> list[Tensor]:
        """Running means and variances of the layers that learn and do not rest."""
        named = (pair for group in self.moving() for module in group.modules for pair in module.named_buffers())
        return [buffer for name, buffer in named if "running_" in name]

    def trained_state(self) -> dict[str, Tensor]:
        """Copies of what a stage may change, by name: what learns, and the running statistics of its layers."""
        modules = [module for group in self.groups() for module in group.modules]
        learning = {id(one) for module in modules for one in (*module.parameters(), *module.buffers())}
        named = self.state_dict(keep_vars=True).items()
        return {name: value.detach().clone() for name, value in named if id(value) in learning}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        own = self.state_dict()
        for name, values in state.items():
            own[name].copy_(values)


class AdapterLayer(nn.Module):
    """Adds a little to what it is given; at first almost nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, pooled: Tensor) -> Tensor:
        added: Tensor = self.dropout(nn.functional.gelu(self.linear(pooled)))
        return pooled + added


def boundary_of(frozen: float, layers: int) -> int:
    """How many of `layers` are the first share of `frozen`, rounded down."""
    return min(int(layers * frozen + 1e-9), layers)
