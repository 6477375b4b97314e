"""The loop on examples of its own: fixed hidden states of the tiny network."""

import math
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regraft.errors import ConfigError
from regraft.task import Task, Training
from training import loop
from training.backbone import open_backbone, open_preprocessor
from training.dataset import read_dataset
from training.loop import Examples, Point, Progress, epoch_batches, fit, judge, set_learning_rate
from training.network import Network
from training.text import TextEncoder
from training.train import Reader


class Bench:
    """A network and its examples, made anew for each run."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.folder = task, folder
        card = open_backbone(task.backbone)
        self.network = Network(TextEncoder.load(card), labels=3, frozen=0.75, seed=0)
        reader = Reader(task, self.network, open_preprocessor(task, card), torch.float32, folder)
        parts = read_dataset(task).parts
        self.train, self.validation = reader.examples("train", parts.train), reader.examples("v", parts.validation)

    def fit(self, **changes: object) -> Progress:
        settings = self.task.training.model_copy(update={"epochs": 2} | changes)
        return fit(self.network, self.train, self.validation, settings, torch.float32, self.folder)


def state_of(network: Network) -> dict[str, torch.Tensor]:
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: value.detach().clone() for name, value in named}


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


@pytest.mark.parametrize("stop_at", [14, 17, 28])
def test_two_epochs_are_one_epoch_a_stop_and_another_epoch(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Fourteen batches an epoch, validated every five: a stop after a checkpoint, between two, and at the end."""
    whole = Bench(task, tmp_path / "whole")
    straight = whole.fit()
    stopped, train_batch = Bench(task, tmp_path / "stopped"), loop.train_batch

    def train_until_stopped(*arguments: object) -> None:
        train_batch(*arguments)  # type: ignore[arg-type]
        if arguments[-1].step > stop_at:  # type: ignore[attr-defined]
            raise Killed

    if stop_at < straight.step:
        monkeypatch.setattr(loop, "train_batch", train_until_stopped)
        with pytest.raises(Killed):
            stopped.fit()
        monkeypatch.setattr(loop, "train_batch", train_batch)
    else:
        stopped.fit()
    resumed = Bench(task, tmp_path / "stopped")
    torch.manual_seed(12345)
    again = resumed.fit()
    assert [vars(point) for point in again.curve] == [vars(point) for point in straight.curve]
    assert again.best_step == straight.best_step
    for name, value in state_of(whole.network).items():
        assert torch.equal(value, state_of(resumed.network)[name]), name


def test_it_returns_to_the_best(task: Task, tmp_path: Path) -> None:
    bench = Bench(task, tmp_path)
    progress = bench.fit(epochs=4)
    best = max(progress.curve, key=lambda point: (point.validation_macro_f1, -point.validation_loss))
    assert progress.best_step == best.step
    again = loop.validate(
        bench.network, bench.validation, torch.float32, Progress(losses=[0.0], answers=[(0, 0)]), rate=0.0
    )
    assert again.validation_loss == pytest.approx(best.validation_loss, abs=1e-6)


def test_it_learns(task: Task, tmp_path: Path) -> None:
    progress = Bench(task, tmp_path).fit(epochs=4)
    assert progress.best_macro_f1 > 0.7
    assert progress.curve[-1].train_loss < progress.curve[0].train_loss


def test_a_loss_that_is_no_number_stops_with_advice(task: Task, tmp_path: Path) -> None:
    bench = Bench(task, tmp_path)
    with torch.no_grad():
        bench.network.head.weight[0, 0] = math.nan
    with pytest.raises(ConfigError, match=r"the loss is nan at batch 1: .*lower training.learning_rate"):
        bench.fit()


def test_ctrl_c_keeps_the_best_so_far(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_batch = loop.train_batch

    def interrupted_after_seven(*arguments: object) -> None:
        if arguments[-1].step == 7:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        train_batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_batch", interrupted_after_seven)
    progress = Bench(task, tmp_path / "late").fit()
    assert (progress.interrupted, progress.step, progress.best_step) == (True, 7, 5)
    with pytest.raises(KeyboardInterrupt):  # nothing was validated yet, so there is no best
        Bench(task, tmp_path / "early").fit(validate_every=50)


def test_it_stops_when_validations_no_longer_improve(task: Task, tmp_path: Path) -> None:
    progress = Bench(task, tmp_path).fit(epochs=20, learning_rate=1e-9, patience=3)
    assert progress.stopped_early
    assert progress.step < 14 * 20


def point(step: int, f1: float, loss: float) -> Point:
    return Point(step, 0, 0, 0, loss, 0, f1, 0)


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


def test_an_epoch_shows_each_example_once_with_neighbours_of_like_length() -> None:
    lengths = torch.arange(200) % 37
    settings = Training(batch_size=8, seed=1)
    batches = epoch_batches(lengths, settings, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    assert max(int(lengths[batch].max() - lengths[batch].min()) for batch in batches) <= 3
    assert batches == epoch_batches(lengths, settings, epoch=0)
    assert batches != epoch_batches(lengths, settings, epoch=1)
    assert batches != epoch_batches(lengths, Training(batch_size=8, seed=2), epoch=0)


def test_the_rate_warms_up_and_falls_and_is_lower_for_deeper_layers(task: Task, tmp_path: Path) -> None:
    network = Bench(task, tmp_path).network
    settings = Training(learning_rate=1.0, layer_decay=0.25, warmup=0.1)
    optimizer = loop._optimizer(network, settings)
    head = [set_learning_rate(optimizer, step, 100, settings) for step in range(100)]
    assert head[9] == max(head) == 1.0
    assert head[:10] == sorted(head[:10])
    assert head[10:] == sorted(head[10:], reverse=True)
    assert [group["lr"] / head[-1] for group in optimizer.param_groups] == pytest.approx([1.0, 0.25])


def test_the_curves_of_both_parts_are_on_comparable_axes(task: Task, tmp_path: Path) -> None:
    progress = Bench(task, tmp_path).fit()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    for metric in ("loss", "accuracy", "macro_f1"):
        steps = [[one.step for one in board.Scalars(f"{metric}/{part}")] for part in ("train", "validation")]
        assert steps[0] == steps[1] == [one.step for one in progress.curve]


def test_examples_of_one_batch_are_enough(task: Task, tmp_path: Path) -> None:
    bench = Bench(task, tmp_path)
    bench.train = Examples(bench.train.hidden, bench.train.labels)
    progress = bench.fit(batch_size=1000, epochs=1)
    assert progress.step == 1
