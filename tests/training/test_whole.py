from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from regraft.task import Task
from tests.training import test_images
from tests.training.pictures import save_image_backbone, save_pictures
from training import whole
from training.backbone import open_backbone, open_preprocessor
from training.dataset import read_dataset
from training.kinds import encoder_of, preprocessor_of
from training.learning import Source
from training.network import Network
from training.text import TextEncoder
from training.whole import PATIENCE, TUNING_EPOCHS, fine_tune_at_once, forget_everything, train_from_scratch


def source_of(task: Task) -> Source:
    card = open_backbone(task.backbone)
    parts = read_dataset(task).parts
    return Source(task, card, open_preprocessor(task, card), parts)


def network_of(source: Source) -> Network:
    return Network(TextEncoder.load(source.card), labels=3, frozen=0.75, seed=0)


def test_nothing_of_the_backbone_is_left(task: Task) -> None:
    network = network_of(source_of(task))
    before = {name: value.clone() for name, value in network.named_parameters()}
    forget_everything(network, seed=1)
    for name, value in network.named_parameters():
        whole = before[name].std() == 0  # biases and scales begin at 0 and at 1 again
        assert whole or not torch.equal(value, before[name]), name


def test_batch_statistics_and_bare_parameters_begin_anew_too() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.token = nn.Parameter(torch.full((8,), 7.0))

    odd = Odd()
    mean = odd.get_buffer("norm.running_mean")
    mean += 5
    forget_everything(odd, seed=0)
    assert mean.abs().max() == 0
    assert torch.equal(odd.norm.weight, torch.ones(3))
    assert 0 < odd.token.abs().max() < 0.2


def test_it_learns_until_it_gets_no_better_and_answers_as_at_its_best(task: Task) -> None:
    source = source_of(task)
    scratch, answers = train_from_scratch(network_of(source), source, torch.float32, 120.0)
    assert scratch.in_time
    reached = [moment.reached for moment in scratch.moments]
    assert scratch.best.reached == max(reached) > 0.5
    assert len(reached) == reached.index(max(reached)) + 1 + PATIENCE
    seconds = [moment.seconds for moment in scratch.moments]
    assert seconds == sorted(seconds)
    assert np.mean(answers == source.target.truth(source.parts.test)) > 0.5


@pytest.mark.parametrize("train", [train_from_scratch, fine_tune_at_once])
def test_it_stops_when_its_time_is_over(task: Task, train: Any) -> None:
    source = source_of(task)
    course, answers = train(network_of(source), source, torch.float32, 1e-9)
    assert (len(course.moments), course.in_time) == (1, False)
    assert len(answers) == len(source.parts.test)


def test_an_epoch_that_was_broken_off_is_not_the_usual_end(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "TUNING_EPOCHS", 1)
    source = source_of(task)
    assert not fine_tune_at_once(network_of(source), source, torch.float32, 1e-9).course.in_time


def test_all_layers_learn_at_once_from_the_backbone_for_a_few_epochs(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "TUNING_RATE", 5e-3)  # the tiny backbone knows nothing yet
    source = source_of(task)
    network = network_of(source)
    before = {name: value.clone() for name, value in network.named_parameters()}
    course, answers = fine_tune_at_once(network, source, torch.float32, 120.0)
    assert (len(course.moments), course.in_time) == (TUNING_EPOCHS, True)
    assert course.best.reached > 0.5
    assert np.mean(answers == source.target.truth(source.parts.test)) > 0.5
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in before if "key.bias" not in name} <= moved  # a softmax does not see a key's bias


def test_a_picture_that_is_left_over_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last feature map is one place, which has no variance. What normalises by batch has a rate of its own."""
    monkeypatch.delattr(whole, "TUNING_RATE")
    save_pictures(tmp_path / "pictures", 8)
    task = test_images.write_task(tmp_path, save_image_backbone(tmp_path / "backbone"))
    card, parts = open_backbone(task.backbone), read_dataset(task).parts
    preprocessor = preprocessor_of(task, card)
    source = Source(task, card, preprocessor, parts._replace(train=parts.train[:9]))
    network = Network(encoder_of(card, preprocessor), labels=3, frozen=0.5, seed=0)
    assert len(fine_tune_at_once(network, source, torch.float32, 120.0).course.moments) == TUNING_EPOCHS
