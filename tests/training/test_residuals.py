import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from training.residuals import compare, evaluate, metrics_of, sums_of

OPTIONS = {"resamples": 500, "seed": 0}


def drawn(rows: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(1000, 2, rows)
    return truth, truth + rng.normal(0, noise, rows)


def test_metrics_are_those_of_scikit_learn_also_far_from_nought() -> None:
    truth, answers = drawn(300, 1.0)
    found = {name: metric.value for name, metric in evaluate(truth, answers, **OPTIONS).items()}
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, answers))
    assert found["rmse"] == pytest.approx(mean_squared_error(truth, answers) ** 0.5)
    assert found["r2"] == pytest.approx(r2_score(truth, answers))


def test_the_interval_covers_the_mean_error_as_often_as_it_says() -> None:
    expected = np.sqrt(2 / np.pi)
    found = [evaluate(*drawn(200, 1.0, seed), resamples=300, seed=seed)["mae"] for seed in range(200)]
    assert 0.90 < np.mean([one.low <= expected <= one.high for one in found]) <= 0.99


def test_who_is_nearer_gains_and_the_pairs_make_the_interval_narrow() -> None:
    truth, theirs = drawn(300, 1.0)
    ours = truth + 0.9 * (theirs - truth)
    gain = compare(truth, ours, theirs, **OPTIONS)
    alone = evaluate(truth, ours, **OPTIONS)
    assert gain["mae"].value == pytest.approx(0.1 * np.abs(theirs - truth).mean())
    assert all(0 < one.low < one.value < one.high for one in gain.values())
    assert gain["mae"].high - gain["mae"].low < 0.2 * (alone["mae"].high - alone["mae"].low)
    assert compare(truth, ours, ours, **OPTIONS)["r2"].high == 0


def test_where_all_truths_are_the_same_nothing_is_explained() -> None:
    truth = np.full(20, 1e6)
    assert evaluate(truth, truth + 1, **OPTIONS)["r2"].value == 0


def test_sums_of_parts_add_up_to_those_of_the_whole() -> None:
    truth, answers = drawn(100, 1.0)
    parts = sums_of(truth[:40], answers[:40]).sum(axis=0) + sums_of(truth[40:], answers[40:]).sum(axis=0)
    assert metrics_of(parts)["mae"] == pytest.approx(np.abs(truth - answers).mean())
