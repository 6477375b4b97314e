"""The whole network at once on the same rows: what the pre-trained start and the stages are worth is held against it.

from random weights: what is it worth to start from a pre-trained network?
from the backbone's, as fine-tuning is usually done: did it help to let the layers learn in stages?

rows -> every weight learns -> validated after each epoch -> its best, and when that was reached
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.cache import batches_by_length
from training.epochs import epoch_batches
from training.inference import infer
from training.learning import Source
from training.losses import Loss
from training.network import Network
from training.outputs import EVALUATION_BATCH
from training.precision import computing

RATE = 5e-4  # from scratch: AdamW's for small transformers and convolutional networks alike, after a warm-up
WARM_UP = 50  # batches
PATIENCE = 6  # epochs without improvement
SPREAD = 0.02  # of first weights, as BERT's
# Devlin et al. 2019 took 2 to 4 epochs, at 5e-5 and less. In the stages' time these get further: docs/decisions.md.
TUNING_RATE, TUNING_RATE_BATCH_NORMS = 2e-4, 1e-3
TUNING_EPOCHS = 4
TUNING_WARM_UP = 0.1  # of all batches
DROPOUT = 0.1  # within the layers, as BERT and most after it were trained

# What these are called among the baselines.
FROM_SCRATCH = "same network, from scratch"
AT_ONCE = "all layers at once"


class Moment(BaseModel):
    model_config = ConfigDict(frozen=True)

    seconds: float  # of training, validations included
    reached: float = Field(validation_alias=AliasChoices("reached", "macro_f1"))  # on validation; see Target.reached


class Course(BaseModel):
    """How a training went; `answers` on the test part are those of its best moment."""

    model_config = ConfigDict(frozen=True)

    moments: list[Moment]
    in_time: bool  # it ended by itself, and not because the time was over

    @property
    def best(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.reached)


class Tried(NamedTuple):
    course: Course
    answers: NDArray[Any]  # of the best moment, on the test part


class Pace(NamedTuple):
    """The rate at a batch, from what was done and the share of the time that is over; and when it is enough."""

    rate: Callable[[int, float], float]
    enough: Callable[[Sequence[Moment]], bool]


def train_from_scratch(network: Network, source: Source, dtype: torch.dtype, budget: float) -> Tried:
    """Until it does not improve any more, or `budget` seconds are over. `network` is left at its best."""
    forget_everything(network, source.task.training.seed)
    pace = Pace(lambda step, _: RATE * min(1.0, (step + 1) / WARM_UP), _settled)
    return _train(network, source, dtype, budget, pace)


def fine_tune_at_once(network: Network, source: Source, dtype: torch.dtype, budget: float) -> Tried:
    """From the weights that `network` has, for a few epochs or as much of them as `budget` seconds allow.

    The rate rises and falls with whichever is nearer to its end, so that a run which has less time has a whole
    schedule too. `network` is left at its best.
    """
    per_epoch = -(-len(source.parts.train) // source.task.training.batch_size)
    total = per_epoch * TUNING_EPOCHS
    top = TUNING_RATE_BATCH_NORMS if network.has_batch_norms else TUNING_RATE

    def rate(step: int, over: float) -> float:
        done = max((step + 1) / total, over)
        return top * max(0.0, min(done / TUNING_WARM_UP, (1 - done) / (1 - TUNING_WARM_UP)))

    return _train(network, source, dtype, budget, Pace(rate, lambda moments: len(moments) == TUNING_EPOCHS))


def forget_everything(network: nn.Module, seed: int) -> None:
    """Random weights throughout: a layer's own way to begin where it has one, else a narrow normal distribution."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=SPREAD)
    for module in network.modules():
        narrow = isinstance(module, nn.Linear | nn.Embedding)
        if not narrow and (begin := getattr(module, "reset_parameters", None)):
            begin()
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _train(network: Network, source: Source, dtype: torch.dtype, budget: float, pace: Pace) -> Tried:
    settings, parts, target = source.task.training, source.parts, source.target
    network.requires_grad_(True)
    network.drop_out(DROPOUT)
    train, validation, test = (_Part.of(source, rows) for rows in (parts.train, parts.validation, parts.test))
    loss = target.loss(settings, train.labels)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01, fused=True)
    step, started, moments = 0, time.monotonic(), list[Moment]()
    best: dict[str, Tensor] = {}
    while not pace.enough(moments) and (not moments or time.monotonic() - started < budget):
        for indices in epoch_batches(train.lengths, settings, (len(moments), 0)):
            for group in optimizer.param_groups:
                group["lr"] = pace.rate(step, (time.monotonic() - started) / budget)
            _learn(network, train, indices, optimizer, loss, dtype)
            step += 1
            if time.monotonic() - started > budget:
                break
        outputs = _outputs(network, validation, dtype)
        reached = target.reached(target.figures(target.tally(outputs, validation.labels)))
        if not moments or reached > max(moment.reached for moment in moments):
            best = {name: value.clone() for name, value in network.state_dict().items()}
        moments.append(Moment(seconds=round(time.monotonic() - started, 2), reached=reached))
    network.load_state_dict(best)
    course = Course(moments=moments, in_time=pace.enough(moments) and moments[-1].seconds <= budget)
    return Tried(course, target.read_outputs(_outputs(network, test, dtype)))


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
    if len(indices) == 1:
        network.hold_statistics()
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

    def keep(indices: list[int]) -> None:
        outputs[indices] = network(*part.inputs(indices, device)).logits.float().cpu()

    infer(keep, part.batches(), dtype, device)
    return outputs


def _settled(moments: Sequence[Moment]) -> bool:
    """The best of all was PATIENCE epochs ago."""
    reached = [moment.reached for moment in moments]
    return len(reached) > PATIENCE and max(reached[:-PATIENCE]) >= max(reached[-PATIENCE:])
