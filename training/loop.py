"""The training loop: what lies above the frozen boundary, on hidden states that are already there.

    for each stage: let more layers learn; run what stays frozen once; then
    for each batch (training/epochs.py): forward, backward, step; at times: validate, keep the best, checkpoint; stop
    after `patience` validations without improvement; return to the best
    a stage that is no better than what was before it leaves nothing behind, and none follows

The state of the loop is `Progress` and the tensors in the checkpoint, nothing else; what is random depends on the seed
and the step alone. A run that was stopped anywhere goes on from its checkpoint to the same result, bit for bit, as one
that was not.
"""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from regraft.answers import FIGURES, written
from regraft.errors import ConfigError
from regraft.sections import Training
from training import checkpoint
from training.cache import HiddenStates
from training.diagnosis import diagnose
from training.epochs import Calendar, epoch_batches, hardest, validations
from training.losses import Loss, contrastive
from training.network import Hidden, Network, boundary_of
from training.optimizer import clip_gradients, gradients, make_optimizer, set_learning_rate
from training.outputs import Outputs, fit_head, over_all
from training.precision import computing
from training.processes import ALONE, Team
from training.progress import Board, Point, Progress, StageEnd
from training.stages import Stage
from training.targets import Target

CHECKPOINT = "checkpoint.safetensors"

_log = logging.getLogger(__name__)


class Examples(NamedTuple):
    hidden: HiddenStates
    labels: Tensor  # (examples,) as the target has them taught: places of labels, or numbers in deviations
    weights: Tensor  # (examples,) how much each counts in training
    views: tuple[HiddenStates, ...] = ()  # of the same examples, changed a little, and all of one size

    def batch(self, indices: Sequence[int], epoch: int) -> Hidden:
        """Each as it is or as one of its views shows it, in turn; so no batch is all changed, which batch statistics
        would learn."""
        if not self.views:
            return self.hidden.batch(indices)
        ways = (self.hidden, *self.views)
        shown = [ways[(epoch + index) % len(ways)].batch([index]) for index in indices]
        return Hidden(*(torch.cat(parts) for parts in zip(*shown, strict=True)))


class Material(NamedTuple):
    train: Examples
    validation: Examples


class Rules(NamedTuple):
    """What stays the same through all stages."""

    settings: Training
    target: Target
    loss: Loss
    dtype: torch.dtype
    team: Team = ALONE


@dataclass
class Held:
    """What is carried from batch to batch beside the network's own tensors; in the checkpoint, but for `validated`."""

    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor]  # the network's state at the best validation
    losses: Tensor  # (training rows,) of the stage's first epoch, as they count; 0 where a row's turn is yet to come
    validated: Outputs | None = None  # what the best said of the validation part; None: not since the start


class Seen:
    """What the batches since the last validation gave."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[dict[str, float]] = []  # by layer group
        self.tallies: list[Tensor] = []


class Fitted(NamedTuple):
    progress: Progress
    material: Material  # as it was read last, which fits the network as it is left
    validated: Outputs  # what the network as it is left says of the validation part


def fit(network: Network, stages: Sequence[Stage], read: Callable[[], Material], rules: Rules, folder: Path) -> Fitted:
    """Train `network` and leave it at its best; `read` runs its frozen layers over the data, wherever they end."""
    stored = checkpoint.load(folder / CHECKPOINT)
    progress = Progress.of(stored.progress) if stored else Progress()
    while True:
        stage = stages[progress.stage]
        network.unfreeze(stage.boundary)
        material = read()
        rows = len(material.train.labels)
        held = Held(make_optimizer(network, stage, rules.settings, rows), network.trained_state(), torch.zeros(rows))
        if stored:
            network.load_trained_state(stored.network)
            checkpoint.restore_optimizer(held.optimizer, stored.optimizer)
            held.best, held.losses, stored = stored.best, stored.losses, None
            _log.info("going on from batch %d of stage %d", progress.step - progress.stage_start, progress.stage + 1)
        run_stage(network, stage, material, held, progress, rules, folder)
        network.load_trained_state(held.best)
        network.learning_mode(on=False)
        end = end_stage(stage, progress, rules.target)
        if not end.kept or progress.interrupted or progress.stage + 1 == len(stages):
            validated = held.validated or over_all(network, material.validation.hidden, rules.dtype, rules.team)
            return Fitted(progress, material, validated)
        del material  # before the next stage's is read
        progress.stage, progress.stage_start = progress.stage + 1, progress.step
        progress.without_improvement, progress.stopped_early, progress.damping = 0, False, 1.0


def run_stage(
    network: Network,
    stage: Stage,
    material: Material,
    held: Held,
    progress: Progress,
    rules: Rules,
    folder: Path,
) -> None:
    """Train until the stage's epochs are over, it stops early or somebody presses Ctrl-C; `held` has the best state."""
    (train, validation), settings, team = material, rules.settings, rules.team
    calendar = Calendar.of(stage, len(train.labels), settings.batch_size)
    total = calendar.ends[-1]
    seen, before, started = Seen(), progress.seconds, time.monotonic()
    done = first = progress.step - progress.stage_start
    board = Board(folder, after=progress.step) if team.is_main else None
    due = validations(calendar.ends, settings.validate_every)
    quiet = not (team.is_main and sys.stderr.isatty())
    bar = tqdm(total=total, initial=done, unit="batch", desc=f"stage {progress.stage + 1}", disable=quiet)
    try:
        while done < total and not progress.stopped_early:
            epoch, position = calendar.place(done)
            rows = hardest(held.losses, stage.revisit) if epoch else None
            network.rest(boundary_of(stage.settle, len(network.groups()) - 1) if epoch else 0)
            for batch in epoch_batches(train.hidden.lengths, settings, (progress.stage, epoch), rows)[position:]:
                rate = set_learning_rate(held.optimizer, stage, done, calendar, settings, progress.damping)
                train_batch(network, stage, train, batch, epoch, held, rules, seen, progress)
                done = progress.step - progress.stage_start
                bar.update()
                if done in due:
                    if stage.objective == "contrast":
                        fit_head(network, train.hidden, train.labels, train.weights, rules.dtype)
                    outputs = over_all(network, validation.hidden, rules.dtype, team)
                    point = note(outputs, validation.labels, rules, progress, seen, rate)
                    if judge(progress, point, settings.patience):
                        held.best, held.validated = network.trained_state(), outputs
                    watch(progress)
                    point.seconds = progress.seconds = before + time.monotonic() - started
                    if board:
                        board.write(point)
                        checkpoint.save(folder / CHECKPOINT, progress, network.trained_state(), held)
                    _say(bar, point, rules.target, done, total, (time.monotonic() - started) / (done - first))
                    seen = Seen()
                if progress.stopped_early:
                    break
    except KeyboardInterrupt:
        if not progress.best_step:
            raise
        progress.interrupted = True
        _log.warning("stopped by hand at batch %d of %d; the best so far is kept", done, total)
    finally:
        bar.close()
        if board:
            board.close()


def end_stage(stage: Stage, progress: Progress, target: Target) -> StageEnd:
    """Note what came of the stage, and say so."""
    best = progress.best_step if progress.best_step > progress.stage_start else None
    steps = progress.step - progress.stage_start
    end = StageEnd(
        stage.boundary,
        stage.learning_rate,
        stage.objective,
        stage.revisit,
        stage.settle,
        steps,
        best,
        progress.stopped_early,
    )
    progress.stages.append(end)
    points = {point.step: point for point in progress.curve}
    outcome = f"kept, {_in_words(points[best], target)}" if best else "no better than before: reverted"
    _log.info("stage %d, %d layers frozen, %d batches: %s", progress.stage + 1, stage.boundary, steps, outcome)
    return end


def train_batch(
    network: Network,
    stage: Stage,
    train: Examples,
    indices: list[int],
    epoch: int,
    held: Held,
    rules: Rules,
    seen: Seen,
    progress: Progress,
) -> None:
    """One step. Raises ConfigError when the loss is no number any more."""
    contrasts, device = stage.objective == "contrast", rules.team.device
    team = ALONE if contrasts else rules.team  # to contrast takes the whole batch: every process does the same
    seed_chance((rules.settings.seed, progress.step, team.index), device)
    network.learning_mode(on=True)
    weights = train.weights[indices] * rules.loss.weights(train.labels[indices])
    mine, shares = indices[team.part], (weights / weights.sum())[team.part]
    if not mine:  # fewer rows than processes: take part, and add nothing
        mine, shares = indices[:1], torch.zeros(1)
    if len(mine) == 1:
        network.hold_statistics()
    truth = train.labels[mine].to(device)
    hidden = without_some(train.batch(mine, epoch).to(device), rules.settings.token_dropout)
    with computing(rules.dtype, device):
        output = network.suffix(hidden)
    losses = contrastive(output.adapted, truth) if contrasts else rules.loss.of(output.logits, truth)
    loss = (losses * shares.to(device)).sum()
    held.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    value, each = loss.detach().reshape(1), torch.zeros(len(indices), device=device)
    each[team.part] = losses.detach()
    team.add_up([value, each, *gradients(network)])
    team.average(network.moving_statistics())
    if epoch == 0:
        held.losses[indices] = each.cpu() * weights
    if not torch.isfinite(value):
        raise ConfigError(
            f"the loss is {value.item()} at batch {progress.step + 1}: the learning rate is probably too high; lower"
            " training.learning_rate, or set training.precision: fp32"
        )
    seen.norms.append(clip_gradients(network))
    held.optimizer.step()
    progress.step += 1
    seen.losses.append(value.item())
    seen.tallies.append(rules.target.tally(output.logits.detach().float().cpu(), truth.cpu()))


def seed_chance(seed: tuple[int, ...], device: torch.device) -> None:
    """What is drawn from now on (dropout) depends on these numbers alone."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def without_some(hidden: Hidden, share: float) -> Hidden:
    """Each position but the first is hidden from the layers above with this chance (token dropout)."""
    if not share:
        return hidden
    kept = torch.rand(hidden.mask.shape, device=hidden.mask.device) >= share
    kept[:, 0] = True
    return Hidden(hidden.states, hidden.mask * kept)


def note(outputs: Outputs, labels: Tensor, rules: Rules, progress: Progress, seen: Seen, rate: float) -> Point:
    """Add a point to the curve: what was said of the validation part, and how the batches since the last point went."""
    logits, target = torch.from_numpy(outputs.logits), rules.target
    tally = torch.stack(seen.tallies).sum(dim=0)
    rules.team.add_up([tally])
    figures = target.figures(target.tally(logits, labels))
    names = list(dict.fromkeys(name for norms in seen.norms for name in norms))
    point = Point(
        stage=progress.stage,
        step=progress.step,
        train_loss=float(np.mean(seen.losses)),
        validation_loss=float(rules.loss.of(logits, labels).mean()),
        train=target.figures(tally),
        validation=figures,
        reached=target.reached(figures),
        learning_rate=rate,
        gradient_norms={name: fmean(norms[name] for norms in seen.norms if name in norms) for name in names},
    )
    progress.curve.append(point)
    return point


def judge(progress: Progress, point: Point, patience: int | None) -> bool:
    """Whether `point` is the best so far, by macro F1 (of numbers: the mean error) and then by loss; after `patience`
    that are not, the stage stops.

    By loss alone it would stop too soon: the loss rises with overconfidence, which the temperature mends afterwards,
    while the answers still get better.
    """
    better = (point.reached, -point.validation_loss) > (progress.best, -progress.best_loss)
    if better:
        progress.best, progress.best_loss = point.reached, point.validation_loss
        progress.best_step, progress.without_improvement = point.step, 0
    else:
        progress.without_improvement += 1
        progress.stopped_early = patience is not None and progress.without_improvement >= patience
    return better


def watch(progress: Progress) -> None:
    """Look at the curve of the stage: say what is wrong, once for each kind, and halve the rate where it bounces."""
    finding = diagnose(progress.of_stage)
    if finding is None:
        return
    if finding.kind not in {one.kind for one in progress.findings}:
        progress.findings.append(finding)
        _log.warning("batch %d: %s", finding.step, finding.advice)
    if finding.kind == "bouncing" and len(progress.curve) >= progress.damped_at + 3:
        progress.damping, progress.damped_at = progress.damping / 2, len(progress.curve)


def _say(bar: "tqdm[Any]", point: Point, target: Target, done: int, total: int, seconds: float) -> None:
    """How it goes: in the progress bar, or as lines where there is no terminal; `seconds` a batch takes."""
    judged = target.answers.judged
    bar.set_postfix({"loss": f"{point.validation_loss:.3f}", judged: f"{point.validation[judged]:.3f}"})
    if bar.disable:
        _log.info(
            "batch %d of %d: loss %.3f, on validation %.3f, %s; about %.0f s left",
            *(done, total, point.train_loss, point.validation_loss, _in_words(point, target)),
            seconds * (total - done),
        )


def _in_words(point: Point, target: Target) -> str:
    return ", ".join(f"{FIGURES[name]} {written(point.validation[name], name)}" for name in target.answers.figures)
