"""The loop on examples of its own: hidden states of the tiny network."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from regraft.errors import ConfigError
from regraft.sections import Training
from regraft.task import Task
from tests.training.convolutions import Convolutions
from tests.training.test_regression import SPREAD, rated, write_numbers
from training import loop
from training.backbone import open_backbone, open_preprocessor
from training.cache import HiddenStates
from training.clock import Clock
from training.dataset import read_dataset
from training.epochs import Calendar, hardest
from training.learning import Reader, Source
from training.loop import Examples, Material, Rules, fit, judge, without_some
from training.network import Hidden, Network
from training.optimizer import make_optimizer, set_learning_rate
from training.outputs import over_all
from training.progress import Point, Progress
from training.stages import Stage
from training.text import TextEncoder


class Bench:
    """A network and its examples, made anew for each run."""

    def __init__(self, task: Task, folder: Path, **settings: object) -> None:
        self.settings, self.folder = task.training.model_copy(update={"epochs": 2} | settings), folder
        card = open_backbone(task.backbone)
        source = Source(task, card, open_preprocessor(task, card), read_dataset(task).parts)
        self.target, adapter = source.target, self.settings.adapter
        self.network = Network(TextEncoder.load(card), labels=self.target.width, frozen=0.75, seed=0, adapter=adapter)
        self.reader = Reader(source, self.network, torch.float32, folder, Clock())

    def fit(self, *stages: Stage) -> Progress:
        assert self.settings.epochs
        assert self.settings.learning_rate
        stages = stages or (Stage(3, self.settings.epochs, self.settings.learning_rate),)
        stages = tuple(replace(stage, layer_decay=0.5) for stage in stages)
        fitted = fit(self.network, stages, self.reader.material, self.rules, self.folder)
        self.material, self.validated = fitted.material, fitted.validated
        return fitted.progress

    @property
    def rules(self) -> Rules:
        loss = self.target.loss(self.settings, torch.tensor([0, 1, 2]))
        return Rules(self.settings, self.target, loss, torch.float32)


def state_of(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_training_moves_what_is_above_the_boundary_and_nothing_below_by_a_byte(task: Task, tmp_path: Path) -> None:
    bench = Bench(task, tmp_path)
    before = state_of(bench.network)
    bench.fit()
    after = state_of(bench.network)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    above = set(bench.network.trained_state())
    # A key's bias shifts all scores of a query alike, which a softmax does not see: its gradient is 0.
    assert above - moved <= {"encoder.model.encoder.layer.3.attention.self.key.bias"}
    assert moved <= above


class Killed(BaseException):
    pass


def stopping_at(steps: Sequence[int]) -> Any:
    """In the place of `train_batch`: is killed before each of these steps, once."""
    left, train_batch = list(steps), loop.train_batch

    def train_until_killed(*arguments: Any) -> None:
        if left and arguments[-1].step == left[0]:
            left.pop(0)
            raise Killed
        train_batch(*arguments)

    return train_until_killed


TWO_STAGES = (Stage(3, 2, 3e-2), Stage(2, 1, 1e-2))


@pytest.mark.parametrize(
    "stop_at", [[14], [17], [3, 28, 29, 40, 41]], ids=["at an epoch's end", "within one", "again and again"]
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: list[int]
) -> None:
    """Two epochs of fourteen batches, validated twice in each, then another with one more layer."""
    whole = Bench(task, tmp_path / "whole")
    straight = whole.fit(*TWO_STAGES)
    assert [stage.kept for stage in straight.stages] == [True, True]
    monkeypatch.setattr(loop, "train_batch", stopping_at(stop_at))
    for _ in stop_at:
        with pytest.raises(Killed):
            Bench(task, tmp_path / "stopped").fit(*TWO_STAGES)
    resumed = Bench(task, tmp_path / "stopped")
    again = resumed.fit(*TWO_STAGES)
    assert again.curve == straight.curve
    assert (again.best_step, again.stages) == (straight.best_step, straight.stages)
    assert same(state_of(whole.network), state_of(resumed.network))


HARDEST = Stage(3, 3, 2e-2, revisit=0.3)
SETTLING = Stage(2, 3, 2e-2, settle=0.5)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> tuple[list[set[int]], list[loop.Held]]:
    """The rows of each epoch of `HARDEST`, and what was held."""
    train_batch, rows, held = loop.train_batch, [set[int](), set[int](), set[int]()], list[loop.Held]()

    def watched(*arguments: Any) -> None:
        indices, epoch = arguments[3:5]
        rows[epoch].update(indices)
        held.append(arguments[5])
        train_batch(*arguments)

    monkeypatch.setattr(loop, "train_batch", watched)
    return rows, held


def test_epochs_after_the_first_go_over_the_rows_that_were_hardest_in_it(
    task: Task, tmp_path: Path, shown: tuple[list[set[int]], list[loop.Held]]
) -> None:
    Bench(task, tmp_path).fit(HARDEST)
    rows, held = shown
    losses = held[-1].losses
    assert losses.min() > 0
    assert rows[0] == set(range(len(losses)))
    assert rows[1] == rows[2] == set(hardest(losses, 0.3).tolist())
    assert len(rows[1]) == math.ceil(0.3 * len(losses))


def test_rows_that_weigh_nothing_are_not_gone_over_again(
    task: Task, tmp_path: Path, shown: tuple[list[set[int]], list[loop.Held]]
) -> None:
    bench = Bench(task, tmp_path)
    material = bench.reader.material()
    chosen = material.train.labels == 0
    weighed = Material(material.train._replace(weights=chosen.float()), material.validation)
    fit(bench.network, [HARDEST], lambda: weighed, bench.rules, tmp_path)
    assert shown[0][1] <= set(chosen.nonzero()[:, 0].tolist())


def test_layers_that_settle_learn_in_the_first_epoch_alone(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the next stage, with one more layer, keep them from learning again."""
    train_batch, moved = loop.train_batch, dict[tuple[int, int], set[str]]()

    def watched(network: Network, stage: Stage, *others: Any) -> None:
        before = state_of(network)
        train_batch(network, stage, *others)
        names = {name for name, value in state_of(network).items() if not torch.equal(value, before[name])}
        layers = {name.split(".")[4] if ".layer." in name else "head" for name in names}
        moved.setdefault((stage.boundary, others[2]), set()).update(layers)

    monkeypatch.setattr(loop, "train_batch", watched)
    progress = Bench(task, tmp_path).fit(SETTLING, Stage(1, 2, 1e-3, settle=0.34))
    assert moved == {
        (2, 0): {"head", "2", "3"},
        (2, 1): {"head", "3"},
        (2, 2): {"head", "3"},
        (1, 0): {"head", "1", "2", "3"},
        (1, 1): {"head", "2", "3"},
    }
    drawn = [list(point.gradient_norms) for point in progress.curve if point.stage == 0]
    assert drawn[0] == ["head", "layer 3", "layer 2"]
    assert drawn[-1] == ["head", "layer 3"]


@pytest.mark.parametrize("stage", [HARDEST, SETTLING], ids=["the same rows", "the same layers"])
def test_a_run_that_was_stopped_goes_on_with_what_later_epochs_are_about(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    whole = Bench(task, tmp_path / "whole")
    straight = whole.fit(stage)
    monkeypatch.setattr(loop, "train_batch", stopping_at([9, 15, 21]))
    for _ in range(3):
        with pytest.raises(Killed):
            Bench(task, tmp_path / "stopped").fit(stage)
    resumed = Bench(task, tmp_path / "stopped")
    assert resumed.fit(stage).curve == straight.curve
    assert same(state_of(whole.network), state_of(resumed.network))
    assert np.array_equal(whole.validated.logits, resumed.validated.logits)


def test_a_stage_that_is_no_better_leaves_nothing_behind_and_none_follows(task: Task, tmp_path: Path) -> None:
    alone, several = Bench(task, tmp_path / "alone"), Bench(task, tmp_path / "several")
    rate = 2e-2
    alone.fit(Stage(3, 2, rate))
    first = Stage(3, 2, rate)
    progress = several.fit(first, Stage(2, 1, 10.0), Stage(1, 1, 1e-3))
    assert [stage.kept for stage in progress.stages] == [True, False]
    assert progress.best_step <= progress.stages[0].steps
    assert same(state_of(alone.network), state_of(several.network))


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_it_returns_to_the_best(task: Task, tmp_path: Path, loss: str) -> None:
    """Validation is measured by the loss that training makes small."""
    bench = Bench(task, tmp_path, epochs=4, loss=loss)
    progress = bench.fit()
    best = max(progress.curve, key=lambda point: (point.reached, -point.validation_loss))
    assert progress.best_step == best.step
    validation, validated = bench.material.validation, bench.validated
    again = over_all(bench.network, validation.hidden, torch.float32)
    assert all(np.array_equal(now, then) for now, then in zip(again, validated, strict=True))
    losses = bench.rules.loss.of(torch.from_numpy(validated.logits), validation.labels)
    assert losses.mean() == best.validation_loss


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "focal", "label_weights": "balanced"},
        {"adapter": 2, "learning_rate": 1e-2},
        {"token_dropout": 0.1},
        {"schedule": "step"},
    ],
    ids=str,
)
def test_it_learns(task: Task, tmp_path: Path, settings: dict[str, object]) -> None:
    progress = Bench(task, tmp_path, epochs=4, **settings).fit()
    assert progress.best > 0.7
    assert progress.curve[-1].train_loss < progress.curve[0].train_loss


def test_vectors_of_one_label_are_drawn_together_and_a_head_is_fitted_to_them(task: Task, tmp_path: Path) -> None:
    bench = Bench(task, tmp_path)
    progress = bench.fit(Stage(3, 3, 5e-3, objective="contrast"))
    assert progress.best > 0.7
    assert progress.curve[-1].train_loss < progress.curve[0].train_loss
    assert progress.stages[0].objective == "contrast"


def test_a_loss_that_is_no_number_stops_with_advice(task: Task, tmp_path: Path) -> None:
    bench = Bench(task, tmp_path)
    with torch.no_grad():
        bench.network.head.weight[0, 0] = math.nan
    with pytest.raises(ConfigError, match=r"the loss is nan at batch 1: .*lower training.learning_rate"):
        bench.fit()


def test_ctrl_c_keeps_the_best_so_far(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_batch = loop.train_batch

    def interrupted_after_nine(*arguments: Any) -> None:
        if arguments[-1].step == 9:
            raise KeyboardInterrupt
        train_batch(*arguments)

    monkeypatch.setattr(loop, "train_batch", interrupted_after_nine)
    progress = Bench(task, tmp_path / "late").fit(*TWO_STAGES)
    assert (progress.interrupted, progress.step, progress.best_step) == (True, 9, 7)
    assert len(progress.stages) == 1
    with pytest.raises(KeyboardInterrupt):  # nothing was validated yet, so there is no best
        Bench(task, tmp_path / "early", validate_every=50).fit()


def test_a_stage_stops_when_validations_no_longer_improve(task: Task, tmp_path: Path) -> None:
    progress = Bench(task, tmp_path, epochs=20, learning_rate=1e-9, patience=3).fit()
    assert progress.stages[0].stopped_early
    assert progress.step < 14 * 20


def point(step: int, f1: float, loss: float) -> Point:
    return Point(
        stage=0, step=step, train_loss=1.0, validation_loss=loss, train={}, validation={}, reached=f1, learning_rate=0.0
    )


def test_macro_f1_decides_and_then_the_loss() -> None:
    progress = Progress()
    assert judge(progress, point(1, 0.5, 1.0), patience=2)
    assert judge(progress, point(2, 0.5, 0.9), patience=2)
    assert not judge(progress, point(3, 0.5, 0.95), patience=2)
    assert not progress.stopped_early
    assert judge(progress, point(4, 0.6, 2.0), patience=2)
    assert not judge(progress, point(5, 0.5, 0.1), patience=2)
    assert not judge(progress, point(6, 0.5, 0.1), patience=2)
    assert progress.stopped_early
    assert progress.best_step == 4


def test_the_rate_is_halved_when_the_validation_loss_bounces() -> None:
    progress = Progress()
    for step, loss in enumerate([1.0, 1.3, 0.9, 1.3, 0.9]):
        progress.curve.append(point(step, 0.5, loss))
        loop.watch(progress)
    assert progress.damping == 0.5  # the fifth point follows too soon on the fourth
    assert [finding.kind for finding in progress.findings] == ["bouncing"]


def test_the_rate_warms_up_and_falls_and_is_lower_for_deeper_layers(task: Task, tmp_path: Path) -> None:
    network = Bench(task, tmp_path).network
    settings, stage, calendar = Training(warmup=0.1), Stage(3, 4, 1.0, layer_decay=0.25), Calendar(25, 25, 4)
    optimizer = make_optimizer(network, stage, settings, rows=1000)
    head = [set_learning_rate(optimizer, stage, step, calendar, settings) for step in range(100)]
    assert head[9] == max(head) == 1.0
    assert head[:10] == sorted(head[:10])
    assert head[10:] == sorted(head[10:], reverse=True)
    assert [group["lr"] / head[-1] for group in optimizer.param_groups] == pytest.approx([1.0, 0.25])
    assert set_learning_rate(optimizer, stage, 9, calendar, settings, damping=0.5) == 0.5
    steps = Training(schedule="step", drop_epochs=2, warmup=0.0)
    falling = [set_learning_rate(optimizer, stage, step, calendar, steps) for step in (1, 49, 50, 99)]
    assert falling == pytest.approx([1.0, 1.0, 0.1, 0.1])
    short = Calendar(25, 10, 2), Training(schedule="step", warmup=0.0)
    falling = [set_learning_rate(optimizer, stage, step, *short) for step in (24, 25, 34)]
    assert falling == pytest.approx([1.0, 0.1, 0.1])
    assert set_learning_rate(optimizer, stage, 24, Calendar(25, 10, 1), short[1]) == 1.0


@pytest.mark.parametrize(("rows", "decay"), [(499, 1e-4), (500, 1e-3)])
def test_the_weight_decay_is_softer_on_few_rows(task: Task, tmp_path: Path, rows: int, decay: float) -> None:
    network = Bench(task, tmp_path).network
    optimizer = make_optimizer(network, Stage(3, 1, 1.0), Training(), rows)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {decay}
    asked = make_optimizer(network, Stage(3, 1, 1.0), Training(weight_decay=0.0), rows)
    assert {group["weight_decay"] for group in asked.param_groups} == {0.0}


def test_a_task_says_how_much_of_the_gradients_mean_stays(task: Task, tmp_path: Path) -> None:
    network = Bench(task, tmp_path).network
    for settings, momentum in ((Training(), 0.5), (Training(momentum=0.2), 0.2)):
        optimizer = make_optimizer(network, Stage(3, 1, 1.0), settings, rows=1000)
        assert {group["betas"] for group in optimizer.param_groups} == {(momentum, 0.999)}


def test_the_curves_of_both_parts_are_on_comparable_axes(task: Task, tmp_path: Path) -> None:
    progress = Bench(task, tmp_path).fit(*TWO_STAGES)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    for metric in ("loss", "accuracy", "precision", "recall", "macro_f1"):
        steps = [[one.step for one in board.Scalars(f"{metric}/{part}")] for part in ("train", "validation")]
        assert steps[0] == steps[1] == [one.step for one in progress.curve]
    layout = layout_pb2.Layout.FromString(board.Tensors(metadata.CONFIG_SUMMARY_TAG)[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["macro_f1"] == ["^macro_f1/(train|validation)$"]
    assert {"loss", "accuracy", "precision", "recall"} <= charts.keys()
    drawn = [len(board.Scalars(f"gradient_norm/{group}")) for group in ("head", "layer 3", "layer 2")]
    assert drawn[0] == drawn[1] == len(progress.curve) > drawn[2] > 0


def test_hiding_tokens_touches_neither_the_first_nor_what_is_padding() -> None:
    torch.manual_seed(0)
    mask = (torch.arange(400) < 300).long().repeat(3, 1)
    hidden = Hidden(torch.ones(3, 400, 2), mask)
    kept = without_some(hidden, 0.25).mask
    assert kept[:, 0].all()
    assert not kept[:, 300:].any()
    assert 0.65 < kept[:, :300].double().mean() < 0.85
    assert without_some(hidden, 0.0) is hidden


def test_examples_of_one_batch_are_enough(task: Task, tmp_path: Path) -> None:
    progress = Bench(task, tmp_path, batch_size=1000, epochs=1).fit()
    assert progress.step == 1


def test_a_row_that_is_left_over_goes_by_the_batch_statistics_so_far(task: Task, tmp_path: Path) -> None:
    """The last of four layers leaves one place, of which one row has no variance."""
    network = Network(Convolutions(layers=4), labels=3, frozen=0.5, seed=0)
    states = torch.randn(9 * 16, 16, generator=torch.Generator().manual_seed(0))
    train = Examples(HiddenStates(states, torch.arange(10) * 16), torch.arange(9) % 3, torch.ones(9))
    rules = Bench(task, tmp_path, batch_size=4).rules
    progress = fit(network, [Stage(2, 2, 1e-3)], lambda: Material(train, train), rules, tmp_path).progress
    assert progress.step == 6
    assert network.state_dict()["encoder.blocks.3.1.num_batches_tracked"] == 4


def test_hidden_states_of_a_stage_go_when_the_next_begins(task: Task, tmp_path: Path) -> None:
    bench = Bench(task.model_copy(update={"training": task.training.model_copy(update={"cache_bytes": 0})}), tmp_path)
    bench.fit(*TWO_STAGES)
    assert {file.name for file in tmp_path.glob("*.hidden")} == {"train-2.hidden", "validation-2.hidden"}


def test_memory_for_hidden_states_is_that_of_all_parts_together(task: Task, tmp_path: Path) -> None:
    material = Bench(task, tmp_path / "all").reader.material()
    held = [part.hidden.states.nbytes for part in material]
    enough, scarce = (
        task.model_copy(update={"training": task.training.model_copy(update={"cache_bytes": size})})
        for size in (2 * sum(held), held[0])
    )
    for settings, files in ((enough, set[str]()), (scarce, {"train-3.hidden", "validation-3.hidden"})):
        folder = tmp_path / str(settings.training.cache_bytes)
        Bench(settings, folder).reader.material()
        assert {file.name for file in folder.glob("*.hidden")} == files


def test_no_two_stages_hidden_states_are_held_at_once(task: Task, tmp_path: Path) -> None:
    bench, seen = Bench(task, tmp_path), list[weakref.ref[torch.Tensor]]()
    read = bench.reader.material

    def watched() -> Material:
        assert [one() for one in seen] == [None] * len(seen)
        material = read()
        seen.append(weakref.ref(material.train.hidden.states))
        return material

    fit(bench.network, TWO_STAGES, watched, bench.rules, tmp_path)
    assert len(seen) == 2


def test_material_weights_count(task: Task, tmp_path: Path) -> None:
    """Rows that weigh nothing teach nothing."""
    bench = Bench(task, tmp_path)
    read = bench.reader.material

    def only_first_label() -> Material:
        train, validation = read()
        return Material(train._replace(weights=(train.labels == 0).float()), validation)

    fit(bench.network, [Stage(3, 1, 2e-2)], only_first_label, bench.rules, tmp_path)
    assert bench.network.head.bias.argmax() == 0


def test_a_run_over_numbers_is_judged_by_their_error_and_ends_the_same_when_stopped(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task.load(write_numbers(tmp_path, backbone, rated(300)))
    straight = Bench(task, tmp_path / "whole").fit(*TWO_STAGES)
    monkeypatch.setattr(loop, "train_batch", stopping_at([9, 31]))
    for _ in range(2):
        with pytest.raises(Killed):
            Bench(task, tmp_path / "stopped").fit(*TWO_STAGES)
    again = Bench(task, tmp_path / "stopped").fit(*TWO_STAGES)
    assert again.curve == straight.curve
    best = max(straight.curve, key=lambda point: (point.reached, -point.validation_loss))
    assert straight.best_step == best.step
    assert best.reached == -best.validation["mae"] > -SPREAD
    assert set(best.validation) == {"mae", "rmse", "r2"}
