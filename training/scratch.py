"""The same network from random weights on the same rows: what it is worth to start from a pre-trained one.

rows -> the whole network, every layer learning -> validated after each epoch -> its best, and when that was reached
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.cache import batches_by_length
from training.learning import Source
from training.loop import epoch_batches
from training.losses import Loss
from training.network import Network
from training.outputs import EVALUATION_BATCH
from training.precision import computing

RATE = 5e-4  # AdamW's for small transformers and convolutional networks alike, after a warm-up
PATIENCE = 6  # epochs without improvement
SPREAD = 0.02  # of first weights, as BERT's


class Moment(BaseModel):
    model_config = ConfigDict(frozen=True)

    seconds: float  # of training, validations included
    reached: float = Field(validation_alias=AliasChoices("reached", "macro_f1"))  # on validation; see Target.reached


class Scratch(BaseModel):
    """How training from scratch went; `answers` on the test part are those of its best moment."""

    model_config = ConfigDict(frozen=True)

    moments: list[Moment]
    in_time: bool  # it ended by itself, and not because the time was over

    @property
    def best(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.reached)


class Tried(NamedTuple):
    scratch: Scratch
    answers: NDArray[Any]  # of the best moment, on the test part


def forget_everything(network: nn.Module, seed: int) -> None:
    """Random weights throughout: a layer's own way to begin where it has one, else a narrow normal distribution."""
    torch.manual_seed(seed)
    network.requires_grad_(True)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=SPREAD)
    for module in network.modules():
        narrow = isinstance(module, nn.Linear | nn.Embedding)
        if not narrow and (begin := getattr(module, "reset_parameters", None)):
            begin()
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def train_from_scratch(network: Network, source: Source, dtype: torch.dtype, budget: float) -> Tried:
    """Until it does not improve any more, or `budget` seconds are over. `network` is left as it ended."""
    settings, parts, target = source.task.training, source.parts, source.target
    forget_everything(network, settings.seed)
    train, validation, test = (_Part.of(source, rows) for rows in (parts.train, parts.validation, parts.test))
    loss = target.loss(settings, train.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    started, moments, answers = time.monotonic(), list[Moment](), torch.zeros(len(parts.test), target.width)
    while not _settled(moments) and (not moments or time.monotonic() - started < budget):
        for step, indices in enumerate(epoch_batches(train.lengths, settings, (len(moments), 0))):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / 50 if not moments else 1.0)
            _learn(network, train, indices, optimizer, loss, dtype)
            if time.monotonic() - started > budget:
                break
        outputs = _outputs(network, validation, dtype)
        reached = target.reached(target.figures(target.tally(outputs, validation.labels)))
        if not moments or reached > max(moment.reached for moment in moments):
            answers = _outputs(network, test, dtype)
        moments.append(Moment(seconds=round(time.monotonic() - started, 2), reached=reached))
    return Tried(Scratch(moments=moments, in_time=_settled(moments)), target.read_outputs(answers))


class _Part(NamedTuple):
    """Inputs as the network takes them, in batches."""

    encodings: Sequence[Any]
    labels: Tensor
    collate: Any

    @classmethod
    def of(cls, source: Source, rows: list[Any]) -> "_Part":
        encodings = source.preprocessor.encode([row.input for row in rows])
        return cls(encodings, source.target.taught(source.target.truth(rows)), source.preprocessor.collate)

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([encoding.length for encoding in self.encodings])

    def inputs(self, indices: Sequence[int], device: torch.device) -> list[Tensor]:
        tensors = self.collate([self.encodings[index] for index in indices])
        return [torch.from_numpy(values).to(device) for values in tensors.values()]

    def batches(self) -> Iterator[list[int]]:
        return batches_by_length(self.lengths.tolist(), EVALUATION_BATCH)


def _learn(
    network: Network,
    train: _Part,
    indices: list[int],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    dtype: torch.dtype,
) -> None:
    device = network.head.weight.device
    network.train()
    with computing(dtype, device):
        logits = network(*train.inputs(indices, device)).logits
    losses = loss.of(logits, train.labels[indices].to(device))
    optimizer.zero_grad(set_to_none=True)
    losses.mean().backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def _outputs(network: Network, part: _Part, dtype: torch.dtype) -> Tensor:
    """(rows, outputs)"""
    device = network.head.weight.device
    network.eval()
    outputs = torch.empty(len(part.encodings), network.head.out_features)
    with torch.no_grad(), computing(dtype, device):
        for indices in part.batches():
            outputs[indices] = network(*part.inputs(indices, device)).logits.float().cpu()
    return outputs


def _settled(moments: Sequence[Moment]) -> bool:
    """The best of all was PATIENCE epochs ago."""
    reached = [moment.reached for moment in moments]
    return len(reached) > PATIENCE and max(reached[:-PATIENCE]) >= max(reached[-PATIENCE:])
