"""Text encoders of the transformers library, taken apart: embeddings, and layers one by one."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AutoModel, AutoModelForTextEncoding
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging

from regraft.errors import ConfigError
from training.backbone import BackboneCard
from training.network import Encoder, Hidden
from training.replay import Row, holds

ATTENTION = "regraft"
WITH_DECODER = frozenset({"t5", "mt5", "umt5"})  # of which the encoder alone is read
SHORT = 128  # positions up to which attention as plain products is faster in bfloat16


class TextEncoder(Encoder):
    """The vector of a text is the mean over its tokens.

    BERT, MiniLM, RoBERTa, XLM-RoBERTa, ELECTRA, DistilBERT and their like are gone through layer by layer. Any other
    model is run as it is, and cut where it calls one layer after the other (training/replay.py); of one that does not,
    only what comes after its pooled vector learns.
    """

    def __init__(self, model: Any) -> None:
        """`model` is of the transformers library. Raises ConfigError for one that takes no texts."""
        super().__init__()
        if hasattr(model, "pooler"):
            model.pooler = None  # the mean over tokens stands in its place
        self.model = model.eval()
        self.width = int(model.config.hidden_size)
        self._row: Row | None = None  # None: its layers need nothing but states and a mask
        self._layers = list(_layers(model))
        self._find_layers()
        if self._row is None:  # else the model makes its own masks, as the attention that it knows takes them
            self.model.set_attn_implementation(ATTENTION)

    @torch.no_grad()
    def _find_layers(self) -> None:
        mask = torch.ones(2, 9, dtype=torch.long)
        mask[1, 5:] = 0
        try:
            ids = torch.randint(5, self.model.config.vocab_size, mask.shape, generator=torch.Generator().manual_seed(0))
            whole = self.pool(Hidden(self._last(ids, mask), mask))
        except (TypeError, RuntimeError, AttributeError, ValueError) as error:
            kind = self.model.config.model_type
            raise ConfigError(f"the architecture '{kind}' takes no texts alone: {error}") from error
        if self._layers and holds(self, whole, ids, mask):
            return
        self._row = Row.of(self.model, lambda: self._last(ids, mask))
        self._layers = self._row.layers
        if not (holds(self, whole, ids, mask) and self.embed(ids, mask).states.shape[:2] == mask.shape):
            self._row, self._layers = Row(), []

    @classmethod
    def load(cls, card: BackboneCard) -> "TextEncoder":
        """The pre-trained weights, all of them. Raises ConfigError where some are missing or the kind is unknown."""
        return cls(pretrained(card))

    @property
    def layers(self) -> nn.ModuleList:
        """None where the model cannot be cut."""
        return nn.ModuleList(self._layers)

    def embed(self, ids: Tensor, mask: Tensor) -> Hidden:  # type: ignore[override]
        """(batch, tokens) twice."""
        if self._row is None:
            return Hidden(self.model.embeddings(input_ids=ids), mask)
        return Hidden(self._row.run(lambda: self._last(ids, mask), range(0)), mask)

    def run(self, hidden: Hidden, layers: range) -> Hidden:
        states, mask = hidden
        if self._row is None:
            added = _additive(mask)
            for index in layers:
                states = self._layers[index](states, added)
        elif layers:
            states = self._row.run(lambda: self._last(torch.zeros_like(mask), mask), layers, states)
        return Hidden(states, mask)

    def whole(self, ids: Tensor, mask: Tensor) -> Hidden:  # type: ignore[override]
        return super().whole(ids, mask) if self._row is None else Hidden(self._last(ids, mask), mask)

    def pool(self, hidden: Hidden) -> Tensor:
        weights = hidden.mask.unsqueeze(-1).to(hidden.states.dtype)
        return (hidden.states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)

    def example(self) -> dict[str, Tensor]:
        return dict.fromkeys(("input_ids", "attention_mask"), torch.ones(2, 8, dtype=torch.long))

    def exporting(self) -> AbstractContextManager[None]:
        return plain_attention(self.model)

    def _last(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Attention as plain products and a softmax, which runtimes optimise best; afterwards as it was."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def pretrained(card: BackboneCard) -> Any:
    """A model of the transformers library with all its weights. Raises ConfigError."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind = AutoModelForTextEncoding if card.model_type in WITH_DECODER else AutoModel
    try:
        model, found = kind.from_pretrained(
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
    return model


def _layers(model: Any) -> nn.ModuleList:
    """Wherever this architecture keeps them; none where that is unknown."""
    for holder in ("encoder", "transformer"):
        layers = getattr(getattr(model, holder, None), "layer", None)
        if isinstance(layers, nn.ModuleList):
            return layers
    return nn.ModuleList()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """PyTorch's fused attention, but of short texts in bfloat16 on a CPU two plain products and a softmax, which are
    several times as fast there (docs/decisions.md).

    (batch, heads, tokens, width of a head) three times, a mask of (batch, 1, 1, tokens) -> (batch, tokens, heads,
    width of a head), and no weights.
    """
    batch, heads, tokens, width = query.shape
    plain = query.dtype == torch.bfloat16 and query.device.type == "cpu" and tokens <= SHORT
    if not plain or attention_mask is None:
        found: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return found
    query, key, value = (one.reshape(batch * heads, tokens, width) for one in (query, key, value))
    added = attention_mask.to(query.dtype).expand(batch, heads, 1, tokens).reshape(batch * heads, 1, tokens)
    scores = torch.baddbmm(added, query, key.transpose(1, 2), alpha=scaling or width**-0.5)
    weights = F.dropout(scores.softmax(dim=-1), dropout, training=module.training)
    return torch.bmm(weights, value).view(batch, heads, tokens, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)


def _additive(mask: Tensor) -> Tensor:
    """(batch, tokens) of 1 and 0 -> (batch, 1, 1, tokens) that is added to attention scores."""
    return (1.0 - mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
