"""Which rows an epoch goes over, and when to validate."""

import pytest
import torch

from regraft.sections import Training
from training.epochs import Calendar, epoch_batches, hardest, validations
from training.stages import Stage


def test_an_epoch_shows_each_example_once_with_neighbours_of_like_length() -> None:
    lengths = torch.arange(200) % 37
    settings = Training(batch_size=8, seed=1)
    batches = epoch_batches(lengths, settings, (0, 0))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    assert max(int(lengths[batch].max() - lengths[batch].min()) for batch in batches) <= 3
    assert batches == epoch_batches(lengths, settings, (0, 0))
    others = [(settings, (0, 1)), (settings, (1, 0)), (Training(batch_size=8, seed=2), (0, 0))]
    assert all(batches != epoch_batches(lengths, *other) for other in others)


@pytest.mark.parametrize(
    ("per_epoch", "every", "due"),
    [
        (14, 50, {14, 28}),
        (100, 50, {50, 100, 150, 200}),
        (120, 50, {60, 120, 180, 240}),
        (3, 50, {6}),
        (6, 50, {12}),
        (8, 4, {4, 8, 12, 16}),
        (99, 50, {99, 198}),
    ],
)
def test_validations_are_spread_evenly_over_an_epoch(per_epoch: int, every: int, due: set[int]) -> None:
    assert validations([per_epoch, 2 * per_epoch], every) == due


def test_short_epochs_after_a_long_one_are_validated_at_their_ends() -> None:
    assert validations([100, 130, 160], 50) == {50, 100, 130, 160}
    assert validations([12, 15, 18], 50) == {12, 18}


def test_an_epoch_over_some_rows_shows_those_alone() -> None:
    lengths, settings, rows = torch.arange(200) % 37, Training(batch_size=8), torch.arange(3, 200, 5)
    batches = epoch_batches(lengths, settings, (0, 1), rows)
    assert sorted(index for batch in batches for index in batch) == rows.tolist()
    assert epoch_batches(lengths, settings, (0, 1), torch.arange(200)) == epoch_batches(lengths, settings, (0, 1))


def test_a_calendar_knows_where_each_batch_lies() -> None:
    calendar = Calendar.of(Stage(0, 3, 1.0, revisit=0.3), rows=100, batch_size=8)
    assert calendar == Calendar(first=13, later=4, epochs=3)
    assert calendar.ends == [13, 17, 21]
    places = [calendar.place(done) for done in range(21)]
    assert places == [(0, n) for n in range(13)] + [(epoch, n) for epoch in (1, 2) for n in range(4)]


def test_the_hardest_rows_come_in_their_order_and_the_first_of_equal_ones() -> None:
    losses = torch.tensor([0.1, 3.0, 0.2, 0.2, 2.0])
    assert hardest(losses, 0.5).tolist() == [1, 2, 4]
    assert hardest(losses, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert hardest(losses, 0.01).tolist() == [1]
