import math

import pytest
import torch
from torch.nn import functional as F

from regraft.sections import Training
from training.losses import FOCUS, choose, choose_for_numbers, contrastive


def truth(*counts: int) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@pytest.mark.parametrize(("counts", "name"), [((100, 11, 11), "cross_entropy"), ((100, 10, 11), "focal")])
def test_ten_to_one_is_where_the_focal_loss_begins(counts: tuple[int, ...], name: str) -> None:
    loss = choose(Training(), truth(*counts), 3)
    assert loss.name == name
    assert f"is {100 / min(counts):.1f} times as frequent" in loss.reason


def test_what_the_task_asks_for_is_taken() -> None:
    assert choose(Training(loss="focal"), truth(5, 5), 2).name == "focal"
    assert choose(Training(loss="cross_entropy"), truth(500, 5), 2).name == "cross_entropy"


def test_the_focal_loss_is_the_cross_entropy_times_the_missing_probability_squared() -> None:
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), truth(2, 2, 2)
    right = logits.softmax(dim=1)[range(6), labels]
    expected = (1 - right) ** FOCUS * -right.log()
    torch.testing.assert_close(choose(Training(loss="focal"), labels, 3).of(logits, labels), expected)
    plain = choose(Training(), labels, 3).of(logits, labels)
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels, reduction="none"))


def test_balanced_weights_give_every_label_the_same_sum() -> None:
    labels = truth(60, 30, 10)
    weights = choose(Training(label_weights="balanced"), labels, 3).label_weights[labels]
    sums = [float(weights[labels == label].sum()) for label in range(3)]
    assert sums == pytest.approx([100 / 3] * 3)
    assert choose(Training(), labels, 3).label_weights.tolist() == [1, 1, 1]


def test_by_the_root_a_label_that_is_four_times_rarer_counts_for_twice_as_much() -> None:
    common, rare, absent = choose(Training(label_weights="root"), truth(80, 20), 3).label_weights.tolist()
    assert rare == pytest.approx(2 * common)
    assert math.isfinite(absent)


def in_deviations(*numbers: torch.Tensor) -> torch.Tensor:
    together = torch.cat(numbers)
    return ((together - together.mean()) / together.std()).float()


@pytest.mark.parametrize(
    ("usual", "far", "name"),
    [
        (torch.linspace(0, 5, 900), torch.full((100,), 999_999.0), "huber"),  # none of them 4 deviations away
        (torch.linspace(0, 5, 998), torch.full((2,), 50.0), "huber"),
        (torch.linspace(0, 5, 1000), torch.empty(0), "mse"),
        (torch.zeros(900), torch.ones(100), "mse"),  # most are the median itself
        (torch.zeros(600), torch.cat([torch.linspace(0, 5, 300), torch.full((100,), 999_999.0)]), "huber"),
        (torch.zeros(100), torch.empty(0), "mse"),
    ],
)
def test_numbers_far_out_are_told_by_the_others(usual: torch.Tensor, far: torch.Tensor, name: str) -> None:
    loss = choose_for_numbers(Training(), in_deviations(usual, far).nan_to_num())
    assert loss.name == name
    assert loss.reason.endswith("% of the numbers are more than 4 robust deviations from the median")
    assert choose_for_numbers(Training(loss="mse"), usual).name == "mse"


def test_labels_that_lie_together_cost_next_to_nothing_and_mixed_ones_much() -> None:
    corners = torch.eye(2).repeat_interleave(3, dim=0)
    apart = contrastive(corners, truth(3, 3))
    mixed = contrastive(corners, torch.tensor([0, 1, 0, 1, 0, 1]))
    # Two of five others are at the same corner: each of them takes half of the probability.
    torch.testing.assert_close(apart, torch.full((6,), math.log(2)), rtol=0, atol=1e-3)
    assert mixed.min() > 4


def test_a_row_that_is_alone_with_its_label_costs_nothing_and_moves_nothing() -> None:
    vectors = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = contrastive(vectors, torch.tensor([0, 0, 1]))
    assert losses[2] == 0
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
