"""From labelled rows to a trained network: the backbone, the stages, and hidden states wherever a stage begins.

backbone (or the version that serves) -> stages -> the better of the two on the validation part
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from regraft.errors import ConfigError
from regraft.preprocessing import Preprocessor
from regraft.task import Task
from training import augment, precision
from training.backbone import BackboneCard
from training.cache import HiddenStates, hidden_states
from training.clock import Clock
from training.data import Parts, Row
from training.kinds import encoder_of
from training.loop import CHECKPOINT, Examples, Material, Rules, fit
from training.losses import Loss
from training.network import Network
from training.outputs import Outputs
from training.processes import ALONE, Team
from training.progress import Progress
from training.stages import Rates, plan
from training.targets import Target, target_of

SUFFIX = "suffix.safetensors"  # in a version: all that differs from the backbone

_log = logging.getLogger(__name__)


class Source(NamedTuple):
    """What a network is made from; `weights` say of some rows, by id, how much more than 1 they count."""

    task: Task
    card: BackboneCard
    preprocessor: Preprocessor
    parts: Parts
    weights: Mapping[str, float] = MappingProxyType({})

    @property
    def target(self) -> Target:
        return target_of(self.task, self.parts.train)


class Reader(NamedTuple):
    """From rows to hidden states at the frozen boundary."""

    source: Source
    network: Network
    dtype: torch.dtype
    folder: Path
    clock: Clock
    team: Team = ALONE

    def hidden(self, name: str, rows: list[Row]) -> HiddenStates:
        return self._run(name, self.source.preprocessor.encode([row.input for row in rows]))

    def _run(self, name: str, encodings: Sequence[Any], views: int = 1) -> HiddenStates:
        """Each part has its share of the memory that may be used, and each view its share of that."""
        rows, settings = sum(map(len, self.source.parts)), self.source.task.training
        # Files are named after the boundary: those of the stage before may still be mapped.
        file = self.folder / f"{name}-{self.network.boundary}.hidden"
        if self.team.is_main:
            for old in set(self.folder.glob(f"{name}-*.hidden")) - {file}:
                old.unlink()
        return hidden_states(
            self.network,
            self.source.preprocessor,
            encodings,
            dtype=self.dtype,
            cache_bytes=settings.cache_bytes * len(encodings) // (rows * views),
            file=file,
            team=self.team,
        )

    def examples(self, name: str, rows: list[Row], *, augmented: bool = False) -> Examples:
        """`augmented` adds other views of the same rows, where the task asks for them."""
        encodings = self.source.preprocessor.encode([row.input for row in rows])
        others = augment.views_of(rows, encodings, self.source.task.training) if augmented else []
        hidden, *rest = (
            self._run(f"{name}.{number}" if number else name, seen, 1 + len(others))
            for number, seen in enumerate([encodings, *others])
        )
        weights = torch.tensor([self.source.weights.get(row.id, 1.0) for row in rows])
        target = self.source.target
        return Examples(hidden, target.taught(target.truth(rows)), weights, tuple(rest))

    def material(self) -> Material:
        with self.clock.step("run the frozen layers"):
            parts = self.source.parts
            train = self.examples("train", parts.train, augmented=True)
            return Material(train, self.examples("validation", parts.validation))


@dataclass(frozen=True)
class Learned:
    """A trained network, and how it came about."""

    network: Network
    reader: Reader
    material: Material  # hidden states that fit the network as it is
    validated: Outputs  # what it says of the validation part
    progress: Progress
    loss: Loss
    untouched: dict[str, Tensor]  # whatever was changed, as it came with the backbone
    started_from: str  # "backbone", or "production"
    others: dict[str, float]  # what they reached on validation, of the starts that were not taken
    description: dict[str, Any]

    def changed(self) -> dict[str, Tensor]:
        """All that differs from the backbone, by name."""
        own = self.network.state_dict()
        return {name: own[name] for name in self.untouched}

    def undo(self) -> Material:
        """Make the network what it was before anything learned; returns hidden states that fit it."""
        self.network.load_trained_state(self.untouched)
        self.network.to(self.reader.team.device)
        return self.material if self.started_from == "backbone" else self.reader.material()


def learn(source: Source, folder: Path, clock: Clock, *, warm: Path | None = None, team: Team = ALONE) -> Learned:
    """Train from the backbone, or from the version in the folder `warm` where it is better after the first stage."""
    if warm is None:
        return _learn(source, folder, clock, team)
    cold = _learn(source, folder / "cold", clock, team, only_first=True)
    weights = None
    try:
        weights = load_file(warm / SUFFIX)
        other = _learn(source, folder / "warm", clock, team, weights, only_first=True)
    except (ConfigError, OSError) as error:
        _log.warning("production is no place to start from: %s", error)
        other = cold
    best, second = sorted((cold, other), key=_reached, reverse=True)
    _log.info("goes on from the %s, which was better after the first stage", best.started_from)
    if not (folder / CHECKPOINT).is_file():
        _carry_over(best.reader.folder, folder)
    learned = _learn(source, folder, clock, team, None if best is cold else weights)
    if other is not cold:
        learned.others[second.started_from] = second.progress.best
    return learned


def _learn(
    source: Source,
    folder: Path,
    clock: Clock,
    team: Team,
    warm: dict[str, Tensor] | None = None,
    *,
    only_first: bool = False,
) -> Learned:
    """Through all stages, or those that are left: a training goes on from the checkpoint in its folder."""
    settings, target = source.task.training, source.target
    with clock.step("load the backbone"):
        network = Network(
            encoder_of(source.card, source.preprocessor),
            labels=target.width,
            frozen=1.0,
            seed=settings.seed,
            adapter=settings.adapter,
        ).to(team.device)
        network.drop_out(settings.dropout)
    rows = len(source.parts.train)
    pictures = source.task.input == "image"
    rates = Rates.of(settings, rows, pictures=pictures, batch_norms=network.has_batch_norms)
    stages = plan(settings, len(network.encoder.layers), rows, rates, pictures=pictures)
    network.unfreeze(stages[-1].boundary)
    untouched = network.trained_state()
    if warm is not None:
        own = network.state_dict()
        if odd := [name for name, value in warm.items() if name not in own or own[name].shape != value.shape]:
            raise ConfigError(f"its {odd[0]} is not of this network's shape")
        untouched |= {name: own[name].clone() for name in warm}
        network.load_trained_state(warm)
    reader = Reader(source, network, precision.choose(settings.precision, team.device), folder, clock, team)
    loss = target.loss(settings, target.taught(target.truth(source.parts.train)))
    if stages[0].objective == "classify":
        _log.info("loss: %s, because %s", loss.name, loss.reason)
    if not network.encoder.layers:
        _log.warning("%s cannot be cut into layers: only the head learns", source.card.model_type)
    with clock.step("train"):
        stages = stages[:1] if only_first else stages
        rules = Rules(settings, target, loss, reader.dtype, team)
        progress, material, validated = fit(network, stages, reader.material, rules, folder)
    kept = [end.boundary for end in progress.stages if end.kept]
    boundary = network.boundary
    network.unfreeze(kept[-1])
    description = network.description()
    network.unfreeze(boundary)
    return Learned(
        network=network,
        reader=reader,
        material=material,
        validated=validated,
        progress=progress,
        loss=loss,
        untouched=untouched,
        started_from="backbone" if warm is None else "production",
        others={},
        description=description,
    )


def _carry_over(start: Path, folder: Path) -> None:
    """The checkpoint comes last and whole, so that its being there means that all is."""
    shutil.copytree(start / "tensorboard", folder / "tensorboard", dirs_exist_ok=True)
    part = folder / f".{CHECKPOINT}.part"
    shutil.copyfile(start / CHECKPOINT, part)
    part.replace(folder / CHECKPOINT)


def _reached(learned: Learned) -> tuple[float, float]:
    return learned.progress.best, -learned.progress.best_loss


def forget(folder: Path) -> None:
    """Remove what only an unfinished training needs; its TensorBoard curves stay."""
    for file in (*folder.rglob("*.hidden"), *folder.rglob(CHECKPOINT)):
        file.unlink(missing_ok=True)
