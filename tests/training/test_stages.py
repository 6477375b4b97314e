import pytest

from regraft.errors import ConfigError
from regraft.sections import Training
from training.stages import FEW, FEWEST_BATCHES, Rates, Stage, plan

LAYERS = 10


def planned(settings: Training, layers: int, rows: int) -> list[Stage]:
    return plan(settings, layers, rows, Rates.of(settings, rows))


def boundaries(rows: int = 10_000, **settings: object) -> list[int]:
    return [stage.boundary for stage in planned(Training.model_validate(settings), LAYERS, rows)]


def test_each_stage_thaws_a_fifth_of_the_layers_more_at_a_tenth_of_the_rate() -> None:
    stages = planned(Training(frozen=0.7, stages=3, learning_rate=1e-3, epochs=5, stage_epochs=3), LAYERS, 10_000)
    assert [stage.boundary for stage in stages] == [7, 5, 3]
    assert [stage.learning_rate for stage in stages] == pytest.approx([1e-3, 1e-4, 1e-5])
    assert [stage.epochs for stage in stages] == [5, 3, 3]


@pytest.mark.parametrize(
    ("rows", "kind", "expected"),
    [
        (FEW, {}, (5e-4, 0.8)),
        (FEW - 1, {}, (5e-4, 0.5)),
        (FEW, {"pictures": True}, (5e-4, 0.5)),
        (FEW, {"pictures": True, "batch_norms": True}, (3e-3, 0.8)),
        (FEW - 1, {"pictures": True, "batch_norms": True}, (3e-3, 0.5)),
    ],
)
def test_the_rates_suit_rows_and_network_unless_the_task_says_otherwise(
    rows: int, kind: dict[str, bool], expected: tuple[float, float]
) -> None:
    assert Rates.of(Training(), rows, **kind) == expected
    assert Rates.of(Training(learning_rate=1e-4, layer_decay=0.3), rows, **kind) == (1e-4, 0.3)
    first, second = plan(Training(stages=2, force=True), LAYERS, rows, Rates(0.1, 0.7))
    assert (first.learning_rate, second.learning_rate) == pytest.approx((0.1, 0.01))
    assert (first.layer_decay, second.layer_decay) == (0.7, 0.7)


def test_each_stage_thaws_at_least_one_layer_and_none_below_the_first() -> None:
    assert [stage.boundary for stage in planned(Training(frozen=0.75, stages=4), 3, 10_000)] == [2, 1, 0]
    assert boundaries(frozen=1.0, stages=2) == [10, 8]


def test_where_no_layer_learns_what_stands_on_them_learns_for_longer_and_faster() -> None:
    for layers in (LAYERS, 0):
        head, *later = planned(Training(frozen=1.0, stages=2), layers, 10_000)
        assert (head.epochs, head.learning_rate, head.revisit, head.settle) == (40, 1e-2, 1.0, 0.0)
        assert [stage.learning_rate for stage in later] == pytest.approx([5e-5] * min(layers, 1))
        assert [(stage.revisit, stage.settle) for stage in later] == [(0.5, 0.75)] * min(layers, 1)
    (adapter,) = planned(Training(frozen=1.0, adapter=2), LAYERS, 10_000)
    assert (adapter.epochs, adapter.learning_rate) == (40, 1e-3)
    (told,) = planned(Training(frozen=1.0, epochs=3, learning_rate=0.1, revisit=0.5, settle=0.2), LAYERS, 10_000)
    assert (told.epochs, told.learning_rate, told.revisit, told.settle) == (3, 0.1, 0.5, 0.2)


def test_pictures_move_fewer_layers_for_longer() -> None:
    (stage,) = plan(Training(), LAYERS, 10_000, Rates(0.1, 0.7), pictures=True)
    assert (stage.boundary, stage.epochs) == (7, 4)


def test_next_to_no_rows_get_more_epochs() -> None:
    assert planned(Training(epochs=4, batch_size=32, few_shot="off"), LAYERS, 24)[0].epochs == FEWEST_BATCHES
    assert planned(Training(epochs=4, batch_size=32), LAYERS, 10_000)[0].epochs == 4


def test_contrasting_is_one_stage_of_its_own() -> None:
    (stage,) = planned(Training(few_shot="on"), LAYERS, 60)
    assert (stage.objective, stage.boundary) == ("contrast", 7)
    assert all(stage.objective == "classify" for stage in planned(Training(few_shot="off"), LAYERS, 60))
    (immovable,) = planned(Training(few_shot="on", frozen=1.0, stages=1), LAYERS, 60)
    assert immovable.objective == "classify"
    assert [stage.objective for stage in planned(Training(stages=2, force=True), LAYERS, 60)] == ["classify"] * 2
    with pytest.raises(ConfigError, match="one stage of its own"):
        planned(Training(few_shot="on", stages=2, force=True), LAYERS, 60)


def test_one_stage_is_the_default_and_more_may_be_asked_for_where_there_are_rows_enough() -> None:
    assert boundaries() == [3]
    assert boundaries(FEW, stages=2) == [3, 1]


def test_few_rows_move_fewer_layers_for_longer() -> None:
    many, few = (planned(Training(), LAYERS, rows)[0] for rows in (FEW, FEW - 1))
    assert (many.boundary, many.epochs, many.revisit, many.settle) == (3, 2, 0.5, 0.75)
    assert (few.boundary, few.epochs, few.revisit, few.settle) == (7, 4, 1.0, 0.0)
    stages = planned(Training(revisit=0.2, settle=0.0, stages=2), LAYERS, FEW)
    assert [(stage.revisit, stage.settle) for stage in stages] == [(0.2, 0.0)] * 2


@pytest.mark.parametrize(
    ("settings", "rows", "complaint"),
    [
        ({"frozen": 0.0}, 10_000, "all layers learn at once"),
        ({"frozen": 0.05}, 10_000, "all layers learn at once"),
        ({"stages": 2}, FEW - 1, "fewer than 500: they would be learnt by heart"),
        ({"epochs": 48, "patience": None, "stages": 2}, 10_000, "51 epochs without early stopping"),
        ({"frozen": 0.0}, 60, "all layers learn at once"),
        ({"epochs": 200, "patience": None}, 60, "200 epochs without early stopping"),
    ],
)
def test_what_seldom_ends_well_is_refused_unless_forced(settings: dict[str, object], rows: int, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        boundaries(rows, **settings)
    assert boundaries(rows, **settings, force=True)


def test_many_epochs_that_stop_early_are_allowed() -> None:
    assert boundaries(epochs=500)


def test_a_backbone_without_layers_to_thaw_has_one_stage_and_is_not_refused() -> None:
    assert [stage.boundary for stage in planned(Training(stages=3), 0, 10_000)] == [0]
