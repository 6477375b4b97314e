"""The training loop: what lies above the frozen boundary, on hidden states that are already there.

    for each batch: forward, backward, step; every `validate_every` batches and after each epoch: validate, keep the
    best, checkpoint; stop after `patience` validations without improvement; return to the best

The state of the loop is `Progress` and the tensors in the checkpoint, nothing else. A run that was stopped anywhere
goes on from its checkpoint to the same result, bit for bit, as one that was not.
"""

import logging
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from regraft.errors import ConfigError
from regraft.task import Training
from training import checkpoint
from training.cache import HiddenStates, batches_by_length
from training.evaluate import macro_f1
from training.network import Network
from training.precision import computing

EVALUATION_BATCH = 64
CHECKPOINT = "checkpoint.safetensors"
BUCKET = 50  # so many batches are sorted by length together; beyond, their order is random
CLIP = 1.0

_log = logging.getLogger(__name__)


class Examples(NamedTuple):
    hidden: HiddenStates
    labels: Tensor  # (examples,) indices of the task's labels


@dataclass
class Point:
    """One validation: figures of the batches since the last one, and of the whole validation part."""

    step: int
    train_loss: float
    train_accuracy: float
    train_macro_f1: float
    validation_loss: float
    validation_accuracy: float
    validation_macro_f1: float
    learning_rate: float


@dataclass
class Progress:
    step: int = 0  # batches done
    best_step: int = 0  # 0: none validated yet
    best_macro_f1: float = -1.0
    best_loss: float = math.inf
    without_improvement: int = 0
    stopped_early: bool = False
    interrupted: bool = False
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # of the batches since the last validation
    answers: list[tuple[int, int]] = field(default_factory=list)  # (truth, prediction) of their examples
    curve: list[Point] = field(default_factory=list)

    @classmethod
    def of(cls, values: dict[str, object]) -> "Progress":
        progress = cls(**values)  # type: ignore[arg-type]
        progress.curve = [Point(**point) for point in progress.curve]  # type: ignore[arg-type]
        return progress


def fit(
    network: Network, train: Examples, validation: Examples, settings: Training, dtype: torch.dtype, folder: Path
) -> Progress:
    """Train `network` and leave it at its best. Raises ConfigError when the loss is no number any more."""
    optimizer = _optimizer(network, settings)
    per_epoch = math.ceil(len(train.labels) / settings.batch_size)
    total = per_epoch * settings.epochs
    progress, best = Progress(), network.trained_state()
    torch.manual_seed(settings.seed)
    if stored := checkpoint.load(folder / CHECKPOINT):
        progress, best = Progress.of(stored.progress), stored.best
        network.load_trained_state(stored.network)
        checkpoint.restore_optimizer(optimizer, stored.optimizer)
        torch.set_rng_state(stored.random)
        _log.info("going on from step %d of %d", progress.step, total)

    before, started = progress.seconds, time.monotonic()
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=progress.step + 1)
    bar = tqdm(total=total, initial=progress.step, unit="batch", disable=not sys.stderr.isatty())
    try:
        while progress.step < total and not progress.stopped_early:
            epoch, position = divmod(progress.step, per_epoch)
            for batch in epoch_batches(train.hidden.lengths, settings, epoch)[position:]:
                rate = set_learning_rate(optimizer, progress.step, total, settings)
                train_batch(network, train, batch, optimizer, dtype, progress)
                bar.update()
                if progress.step % settings.validate_every == 0 or progress.step % per_epoch == 0:
                    point = validate(network, validation, dtype, progress, rate)
                    if judge(progress, point, settings.patience):
                        best = network.trained_state()
                    progress.seconds = before + time.monotonic() - started
                    write_curve(board, point)
                    bar.set_postfix(loss=f"{point.validation_loss:.3f}", macro_f1=f"{point.validation_macro_f1:.3f}")
                    checkpoint.save(folder / CHECKPOINT, progress, network.trained_state(), best, optimizer)
                if progress.stopped_early:
                    break
    except KeyboardInterrupt:
        if not progress.best_step:
            raise
        progress.interrupted = True
        _log.warning("stopped by hand at step %d of %d; the best so far is kept", progress.step, total)
    finally:
        bar.close()
        board.close()
    network.load_trained_state(best)
    network.learning_mode(on=False)
    return progress


def epoch_batches(lengths: Tensor, settings: Training, epoch: int) -> list[list[int]]:
    """This epoch's batches of like lengths in random order; the same for the same seed and epoch."""
    generator = np.random.default_rng((settings.seed, epoch))
    order = generator.permutation(len(lengths))
    chunk = BUCKET * settings.batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), chunk):
        indices = order[start : start + chunk]
        by_length = batches_by_length(lengths[indices].tolist(), settings.batch_size)
        batches += [indices[places].tolist() for places in by_length]
    return [batches[index] for index in generator.permutation(len(batches))]


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, total: int, settings: Training) -> float:
    """Linear warm-up, then half a cosine down to 0 (Loshchilov and Hutter 2017); returns the head's rate."""
    warmup = max(1, round(total * settings.warmup))
    done = (step - warmup) / max(1, total - warmup)
    factor = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor
    return settings.learning_rate * factor


def train_batch(
    network: Network,
    train: Examples,
    indices: list[int],
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype,
    progress: Progress,
) -> None:
    hidden = train.hidden.batch(indices)
    truth = train.labels[indices]
    network.learning_mode(on=True)
    with computing(dtype):
        logits = network.suffix(hidden).logits
    loss = F.cross_entropy(logits.float(), truth)
    if not torch.isfinite(loss):
        raise ConfigError(
            f"the loss is {loss.item()} at batch {progress.step + 1}: the learning rate is probably too high; lower"
            " training.learning_rate, or set training.precision: fp32"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([p for p in network.parameters() if p.requires_grad], CLIP)
    optimizer.step()
    progress.step += 1
    progress.losses.append(loss.item())
    progress.answers.extend(zip(truth.tolist(), logits.argmax(dim=1).tolist(), strict=True))


def validate(network: Network, validation: Examples, dtype: torch.dtype, progress: Progress, rate: float) -> Point:
    """Add a point to the curve; the figures of training are those of the batches since the last point."""
    logits = torch.from_numpy(logits_of(network, validation.hidden, dtype))
    truth = validation.labels.numpy()
    classes = logits.shape[1]
    seen, answered = np.array(progress.answers).T
    point = Point(
        step=progress.step,
        train_loss=float(np.mean(progress.losses)),
        train_accuracy=float(np.mean(seen == answered)),
        train_macro_f1=macro_f1(seen, answered, classes),
        validation_loss=float(F.cross_entropy(logits, validation.labels)),
        validation_accuracy=float(np.mean(logits.argmax(dim=1).numpy() == truth)),
        validation_macro_f1=macro_f1(truth, logits.argmax(dim=1).numpy(), classes),
        learning_rate=rate,
    )
    progress.curve.append(point)
    progress.losses, progress.answers = [], []
    return point


def judge(progress: Progress, point: Point, patience: int) -> bool:
    """Whether `point` is the best so far, by macro F1 and then by loss; after `patience` that are not, the loop stops.

    By loss alone it would stop too soon: the loss rises with overconfidence, which the temperature mends afterwards,
    while the answers still get better.
    """
    reached = (point.validation_macro_f1, -point.validation_loss)
    better = reached > (progress.best_macro_f1, -progress.best_loss)
    if better:
        progress.best_macro_f1, progress.best_loss = point.validation_macro_f1, point.validation_loss
        progress.best_step, progress.without_improvement = point.step, 0
    else:
        progress.without_improvement += 1
        progress.stopped_early = progress.without_improvement >= patience
    return better


def logits_of(network: Network, hidden: HiddenStates, dtype: torch.dtype) -> NDArray[np.float32]:
    """(examples, labels)"""
    return _over_all(network, hidden, dtype)[1]


def pooled_of(network: Network, hidden: HiddenStates, dtype: torch.dtype) -> NDArray[np.float32]:
    """(examples, width)"""
    return _over_all(network, hidden, dtype)[0]


def _over_all(
    network: Network, hidden: HiddenStates, dtype: torch.dtype
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    network.learning_mode(on=False)
    pooled = np.empty((len(hidden), network.width), dtype=np.float32)
    logits = np.empty((len(hidden), network.head.out_features), dtype=np.float32)
    with torch.no_grad(), computing(dtype):
        for indices in batches_by_length(hidden.lengths.tolist(), EVALUATION_BATCH):
            output = network.suffix(hidden.batch(indices))
            pooled[indices], logits[indices] = output.pooled.float().numpy(), output.logits.float().numpy()
    return pooled, logits


def write_curve(board: SummaryWriter, point: Point) -> None:
    for name, value in asdict(point).items():
        part, _, metric = name.partition("_")
        tag = f"{metric}/{part}" if part in {"train", "validation"} else name
        if name != "step":
            board.add_scalar(tag, value, point.step)


def _optimizer(network: Network, settings: Training) -> torch.optim.Optimizer:
    """Each layer group learns `layer_decay` times as fast as the one above it."""
    groups = [
        {"params": group.parameters, "base": settings.learning_rate * settings.layer_decay**group.depth}
        for group in network.groups()
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
