from typing import NamedTuple

import pytest

from training.diagnosis import diagnose


class Losses(NamedTuple):
    step: int
    train_loss: float
    validation_loss: float


def found(train: list[float], validation: list[float]) -> str | None:
    curve = [Losses(step, *losses) for step, losses in enumerate(zip(train, validation, strict=True), start=1)]
    finding = diagnose(curve)
    assert finding is None or finding.step == len(curve)
    return finding and finding.kind


FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]


@pytest.mark.parametrize(
    ("train", "validation", "kind"),
    [
        (FALLING, FALLING, None),
        (FALLING[:1], FALLING[:1], None),
        (FALLING, [0.9, 0.8, 0.75, 0.74, 0.74, 0.76, 0.79, 0.82], "overfitting"),
        (FALLING, [0.9, 0.8, 0.75, 0.74, 0.74, 0.74, 0.75, 0.75], None),  # risen by less than chance
        (FALLING, [0.9, 0.7, 0.9, 0.95, 0.9, 0.85, 0.8, 0.75], None),  # on its way back
        ([1.0, 0.9, 0.9, 1.0, 1.0, 1.1, 1.1, 1.2], [0.9, 0.8, 0.8, 0.8, 0.85, 0.9, 0.9, 1.0], "plateau"),
        (FALLING, [0.9, 0.8, 0.7, 0.6, 0.8, 0.6, 0.8, 0.6], "bouncing"),
        (FALLING, [0.9, 0.8, 0.7, 0.6, 0.61, 0.6, 0.61, 0.6], None),
        ([1.0] * 8, [0.9] * 8, "plateau"),
        ([1.0] * 4, [0.9] * 4, None),  # too soon to say
        (FALLING, [0.9] * 8, None),  # training still learns something
    ],
)
def test_the_curve_says_what_is_wrong(train: list[float], validation: list[float], kind: str | None) -> None:
    assert found(train, validation) == kind


def test_against_overfitting_there_is_a_setting_for_each_kind_of_input() -> None:
    finding = diagnose([Losses(1, 1.0, 0.8), Losses(2, 0.5, 0.9)])
    assert finding is not None
    assert "training.token_dropout (of texts) or training.augment.views (of pictures)" in finding.advice
