"""The same network from random weights on the same rows: what it is worth to start from a pre-trained one.

rows -> the whole network, every layer learning -> validated after each epoch -> its best, and when that was reached
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from training.cache import batches_by_length
from training.evaluate import macro_f1
from training.learning import Source, labels_of_rows
from training.loop import epoch_batches
from training.network import Network
from training.outputs import EVALUATION_BATCH
from training.precision import computing

RATE = 5e-4  # AdamW's for small transformers and convolutional networks alike, after a warm-up
PATIENCE = 6  # epochs without improvement
SPREAD = 0.02  # of first weights, as BERT's

Ints = NDArray[np.int64]


class Moment(BaseModel):
    model_config = ConfigDict(frozen=True)

    seconds: float  # of training, validations included
    macro_f1: float  # on the validation part


class Scratch(BaseModel):
    """How training from scratch went; `answers` on the test part are those of its best moment."""

    model_config = ConfigDict(frozen=True)

    moments: list[Moment]
    in_time: bool  # it ended by itself, and not because the time was over

    @property
    def best(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.macro_f1)


class Tried(NamedTuple):
    scratch: Scratch
    answers: Ints  # of the best moment, on the test part


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
    settings, parts, task = source.task.training, source.parts, source.task
    forget_everything(network, settings.seed)
    train, validation, test = (_Part.of(source, rows) for rows in (parts.train, parts.validation, parts.test))
    truth = labels_of_rows(parts.validation, task)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    started, moments, answers = time.monotonic(), list[Moment](), np.zeros(len(parts.test), dtype=np.int64)
    while not _settled(moments) and (not moments or time.monotonic() - started < budget):
        for step, indices in enumerate(epoch_batches(train.lengths, settings, (len(moments), 0))):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / 50 if not moments else 1.0)
            _learn(network, train, indices, optimizer, dtype)
            if time.monotonic() - started > budget:
                break
        reached = macro_f1(truth, _answers(network, validation, dtype), len(task.labels))
        if not moments or reached > max(moment.macro_f1 for moment in moments):
            answers = _answers(network, test, dtype)
        moments.append(Moment(seconds=round(time.monotonic() - started, 2), macro_f1=reached))
    return Tried(Scratch(moments=moments, in_time=_settled(moments)), answers)


class _Part(NamedTuple):
    """Inputs as the network takes them, in batches."""

    encodings: Sequence[Any]
    labels: Tensor
    collate: Any

    @classmethod
    def of(cls, source: Source, rows: list[Any]) -> "_Part":
        encodings = source.preprocessor.encode([row.input for row in rows])
        return cls(encodings, torch.from_numpy(labels_of_rows(rows, source.task)), source.preprocessor.collate)

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([encoding.length for encoding in self.encodings])

    def inputs(self, indices: Sequence[int], device: torch.device) -> list[Tensor]:
        tensors = self.collate([self.encodings[index] for index in indices])
        return [torch.from_numpy(values).to(device) for values in tensors.values()]

    def batches(self) -> Iterator[list[int]]:
        return batches_by_length(self.lengths.tolist(), EVALUATION_BATCH)


def _learn(
    network: Network, train: _Part, indices: list[int], optimizer: torch.optim.Optimizer, dtype: torch.dtype
) -> None:
    device = network.head.weight.device
    network.train()
    with computing(dtype, device):
        logits = network(*train.inputs(indices, device)).logits
    loss = F.cross_entropy(logits.float(), train.labels[indices].to(device))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def _answers(network: Network, part: _Part, dtype: torch.dtype) -> Ints:
    device = network.head.weight.device
    network.eval()
    answers = np.empty(len(part.encodings), dtype=np.int64)
    with torch.no_grad(), computing(dtype, device):
        for indices in part.batches():
            answers[indices] = network(*part.inputs(indices, device)).logits.argmax(dim=1).cpu().numpy()
    return answers


def _settled(moments: Sequence[Moment]) -> bool:
    """The best of all was PATIENCE epochs ago."""
    reached = [moment.macro_f1 for moment in moments]
    return len(reached) > PATIENCE and max(reached[:-PATIENCE]) >= max(reached[-PATIENCE:])
