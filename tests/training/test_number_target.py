"""What numbers are compared with: it keeps to the range, as the network's answers do."""

import numpy as np
import pytest
import torch

from regraft.answers import Numbers
from training.baselines import SIMPLE
from training.targets.base import Asked
from training.targets.numbers import NumberTarget

TARGET = NumberTarget(Numbers(minimum=0, maximum=10), center=5.0, unit=2.0, level=0.9)


def test_outputs_of_the_network_are_read_within_the_range() -> None:
    assert TARGET.read_outputs(torch.tensor([[-9.0], [0.5], [9.0]])).tolist() == [0, 6, 10]
    unbounded = NumberTarget(Numbers(maximum=10), center=5.0, unit=2.0, level=0.9)
    assert unbounded.read_outputs(torch.tensor([[-9.0], [9.0]])).tolist() == [-13, 10]


def test_linear_models_answer_within_the_range() -> None:
    vectors, truth = np.linspace(-1, 1, 21)[:, None], np.linspace(0, 10, 21)
    model = TARGET.linear(1000.0).fit(vectors, truth)
    assert model.predict([[-5.0], [0.0], [5.0]]) == pytest.approx([0, 5, 10], abs=0.01)


def test_constants_and_chance_are_among_the_baselines() -> None:
    truth = np.array([0.0, 0.0, 1.0, 4.0, 10.0] * 8)
    texts = [f"word{number % 7}" for number in range(40)]
    pooled = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    found = TARGET.baselines(Asked(texts, truth, texts, (pooled, 100 * pooled), 3), SIMPLE["text"])
    assert list(found)[:3] == ["at random", "the mean", "the median"]
    assert set(found["at random"]) == set(truth)
    assert set(found["the median"]) == {1.0}
    assert np.abs(found["the median"] - truth).mean() < np.abs(found["the mean"] - truth).mean()
    frozen = found["frozen backbone, linear"]
    assert (np.min(frozen), np.max(frozen)) == (0.0, 10.0)
