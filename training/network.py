"""The network: a pre-trained encoder cut at the frozen boundary, and a new head on what its tokens say on average.

    ids, mask -> prefix (embeddings, frozen layers) -> hidden -> suffix (layers that learn) -> pooled -> head -> logits

Whatever lies in the prefix never changes in a stage, so its output is computed once; see training/loop.py.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

from regraft.errors import ConfigError
from training.backbone import BackboneCard

DROPOUT = 0.1
PROBE_TOLERANCE = 1e-4  # what summing in another order may change; a wrong path through the layers changes far more


class Output(NamedTuple):
    pooled: Tensor  # (batch, width)
    logits: Tensor  # (batch, labels)


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate; `depth` 0 is the head, 1 the last layer, and so on down."""

    name: str
    depth: int
    parameters: list[nn.Parameter]


class Network(nn.Module):
    def __init__(self, encoder: Any, labels: int, frozen: float) -> None:
        """`encoder` is a transformers encoder; `frozen` the share of its layers that do not learn."""
        super().__init__()
        self.encoder = encoder
        self.embeddings, self.layers = _anatomy(encoder)
        self.boundary = min(int(len(self.layers) * frozen + 1e-9), len(self.layers))
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(self.width, labels)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.requires_grad_(False)
        for group in self.groups():
            for parameter in group.parameters:
                parameter.requires_grad_(True)

    @classmethod
    def load(cls, card: BackboneCard, *, labels: int, frozen: float, seed: int) -> Self:
        """The pre-trained encoder under a fresh head. Raises ConfigError for an encoder that cannot be cut."""
        encoder = _load_encoder(card)
        torch.manual_seed(seed)  # the head's first weights
        network = cls(encoder, labels, frozen)
        _probe(network, encoder)
        return network

    @property
    def width(self) -> int:
        return int(self.encoder.config.hidden_size)

    def description(self) -> dict[str, Any]:
        learning = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return {
            "layers": len(self.layers),
            "frozen_layers": self.boundary,
            "parameters": {"total": sum(p.numel() for p in self.parameters()), "learning": learning},
        }

    def groups(self) -> list[Group]:
        """What learns, from the head downwards."""
        learning = list(self.layers)[self.boundary :]
        groups = [Group("head", 0, list(self.head.parameters()))]
        for depth, layer in enumerate(reversed(learning), start=1):
            groups.append(Group(f"layer {len(self.layers) - depth}", depth, list(layer.parameters())))
        return groups

    def prefix(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens) twice -> hidden states at the boundary (batch, tokens, width)."""
        hidden: Tensor = self.embeddings(input_ids=ids)
        for layer in self.layers[: self.boundary]:
            hidden = layer(hidden, _additive(mask))
        return hidden

    def suffix(self, hidden: Tensor, mask: Tensor) -> Output:
        """Hidden states at the boundary -> pooled vector and logits."""
        for layer in self.layers[self.boundary :]:
            hidden = layer(hidden, _additive(mask))
        pooled = _mean(hidden, mask)
        return Output(pooled, self.head(self.dropout(pooled)))

    def forward(self, ids: Tensor, mask: Tensor) -> Output:
        return self.suffix(self.prefix(ids, mask), mask)

    def learning_mode(self, on: bool) -> None:
        """Dropout works above the boundary alone: the prefix is the same function in training and in use."""
        self.eval()
        for layer in self.layers[self.boundary :]:
            layer.train(on)
        self.dropout.train(on)

    def trained_state(self) -> dict[str, Tensor]:
        """Copies of the parameters that learn, by name."""
        return {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, values in state.items():
                parameters[name].copy_(values)


def _load_encoder(card: BackboneCard) -> Any:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        encoder, found = AutoModel.from_pretrained(
            card.folder,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"the backbone {card.source} cannot be loaded: {error}") from error
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
        raise ConfigError(f"the backbone {card.source} lacks weights, among them {missing[0]}")
    if hasattr(encoder, "pooler"):
        encoder.pooler = None  # the mean over tokens stands in its place
    return encoder.eval()


def _anatomy(encoder: Any) -> tuple[nn.Module, nn.ModuleList]:
    """The embeddings and the layers, wherever this architecture keeps them."""
    for holder in ("encoder", "transformer"):
        layers = getattr(getattr(encoder, holder, None), "layer", None)
        if isinstance(layers, nn.ModuleList) and isinstance(getattr(encoder, "embeddings", None), nn.Module):
            return encoder.embeddings, layers
    raise _unknown(encoder)


def _probe(network: Network, encoder: Any) -> None:
    """Going through the layers one by one must be what the encoder itself does (position biases, say, get lost)."""
    ids = torch.randint(5, encoder.config.vocab_size, (2, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    network.learning_mode(on=False)
    try:
        with torch.inference_mode():
            whole = _mean(encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
            difference = (network(ids, mask).pooled - whole).abs().max()
    except (TypeError, RuntimeError, AttributeError) as error:
        raise _unknown(encoder) from error
    if difference > PROBE_TOLERANCE:
        raise _unknown(encoder)


def _unknown(encoder: Any) -> ConfigError:
    kind = encoder.config.model_type
    return ConfigError(
        f"the architecture '{kind}' cannot be cut into layers here; BERT, MiniLM, RoBERTa, XLM-RoBERTa, ELECTRA and"
        " DistilBERT can"
    )


def _additive(mask: Tensor) -> Tensor:
    """(batch, tokens) of 1 and 0 -> (batch, 1, 1, tokens) that is added to attention scores."""
    return (1.0 - mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
