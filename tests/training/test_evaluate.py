import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from regraft.answers import Labels
from tests.images import plain
from training import baselines
from training.calibrate import bins, ece, ece_by_chance, fit_temperature, measure, nll, warmer
from training.evaluate import compare, confusion_of, evaluate, macro_f1, mean
from training.targets import target_for

LABELS = ("a", "b", "c")
LABELLED = target_for(Labels(LABELS))
OPTIONS = {"resamples": 500, "seed": 0}


def answers(rng: np.random.Generator, truth: np.ndarray, right: float) -> np.ndarray:
    return np.where(rng.random(len(truth)) < right, truth, rng.integers(0, 3, len(truth)))


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    predicted = answers(rng, truth, 0.6)
    found = evaluate(truth, predicted, LABELS, **OPTIONS)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted)
    assert np.array_equal(confusion_of(truth, predicted, 3), confusion_matrix(truth, predicted))
    assert found["accuracy"].value == pytest.approx(np.mean(truth == predicted))
    assert found["macro_f1"].value == pytest.approx(f1_score(truth, predicted, average="macro"))
    for index, label in enumerate(LABELS):
        assert found[f"precision/{label}"].value == pytest.approx(precision[index])
        assert found[f"recall/{label}"].value == pytest.approx(recall[index])
        assert found[f"f1/{label}"].value == pytest.approx(f1[index])
    assert found["macro_precision"].value == pytest.approx(precision.mean())
    assert found["macro_recall"].value == pytest.approx(recall.mean())
    assert found["weighted_f1"].value == pytest.approx(f1_score(truth, predicted, average="weighted"))
    assert macro_f1(truth, predicted, 3) == pytest.approx(f1.mean())


def test_a_thousand_labels_fit_into_memory() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 1000, 3000)
    predicted = np.where(rng.random(3000) < 0.5, truth, rng.integers(0, 1000, 3000))
    labels = [str(number) for number in range(1000)]
    metrics = evaluate(truth, predicted, labels, resamples=100, seed=0)
    assert metrics["accuracy"].low < np.mean(truth == predicted) < metrics["accuracy"].high
    assert metrics["macro_f1"].value == pytest.approx(macro_f1(truth, predicted, 1000))


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for seed in range(300):
        truth = rng.integers(0, 2, 150)
        right = rng.random(150) < 0.8
        metric = evaluate(truth, np.where(right, truth, 1 - truth), LABELS[:2], resamples=300, seed=seed)
        covered += metric["accuracy"].low <= 0.8 <= metric["accuracy"].high
    assert 0.91 < covered / 300 <= 0.99


def test_a_paired_difference_is_narrower_than_the_intervals_of_both() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 400)
    theirs = answers(rng, truth, 0.6)
    ours = np.where(rng.random(400) < 0.1, truth, theirs)  # theirs, with some mistakes mended
    gain = compare(truth, ours, theirs, LABELS, **OPTIONS)["accuracy"]
    alone = evaluate(truth, ours, LABELS, **OPTIONS)["accuracy"]
    assert gain.value == pytest.approx(np.mean(ours == truth) - np.mean(theirs == truth))
    assert 0 < gain.low < gain.high
    assert gain.high - gain.low < 0.7 * (alone.high - alone.low)


def test_a_model_gains_nothing_over_itself() -> None:
    truth = np.arange(30) % 3
    gains = baselines.beside(LABELLED, truth, truth, {"itself": truth}, **OPTIONS)["itself"]
    assert (gains["gain/accuracy"].low, gains["gain/accuracy"].high) == (0.0, 0.0)
    assert gains["accuracy"].value == 1.0


def test_the_interval_of_a_mean_covers_it_on_few_rows_and_on_many() -> None:
    rng = np.random.default_rng(4)
    for rows in (200, 20_000):
        found = [mean(rng.exponential(size=rows), resamples=300, seed=seed) for seed in range(100)]
        assert 85 < sum(one.low <= 1 <= one.high for one in found) <= 100
        assert found[0].high - found[0].low == pytest.approx(2 * 1.96 / np.sqrt(rows), rel=0.3)


def test_a_label_that_is_never_answered_or_never_true_counts_as_nought() -> None:
    metrics = evaluate(np.array([0, 0, 1]), np.array([0, 0, 0]), LABELS, **OPTIONS)
    assert metrics["precision/b"].value == metrics["recall/c"].value == metrics["f1/c"].value == 0.0
    assert metrics["accuracy"].value == pytest.approx(2 / 3)


def test_the_temperature_of_overconfident_logits_is_found() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(5000, 3))
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (rng.random((5000, 1)) > odds.cumsum(axis=1)).sum(axis=1)
    found = fit_temperature((4 * logits).astype(np.float32), truth)
    assert found.temperature == pytest.approx(4, rel=0.1)
    assert found.ece_after < 0.03 < found.ece_before
    assert found.nll_after < found.nll_before
    assert found.nll_after == pytest.approx(nll(logits, truth), abs=0.01)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10)
    assert ece(probabilities, np.array([0] * 6 + [1] * 4)) == pytest.approx(0.3)
    assert np.array(bins(probabilities, np.zeros(10, dtype=int))) == pytest.approx(np.array([[0.9, 1.0, 1.0]]))
    assert ece(np.array([[1.0, 0.0]]), np.array([0])) == 0.0


def outcomes(rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
    drawn: np.ndarray = (rng.random((len(probabilities), 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return drawn


def test_chance_alone_makes_a_calibration_error_and_as_large_a_one_as_is_said() -> None:
    rng = np.random.default_rng(6)
    probabilities = rng.dirichlet((1.0, 1.0, 1.0), size=300)
    low, high = ece_by_chance(probabilities, seed=0)
    inside = sum(low <= ece(probabilities, outcomes(rng, probabilities)) <= high for _ in range(400))
    assert 0.91 < inside / 400 <= 0.99
    assert ece_by_chance(np.repeat(probabilities, 20, axis=0), seed=0)[1] < high / 2


def test_overconfidence_is_more_than_chance_and_the_temperature_gains() -> None:
    rng = np.random.default_rng(7)
    honest = rng.dirichlet((1.0, 1.0, 1.0), size=1000)
    truth = outcomes(rng, honest)
    found = measure(honest, truth, 3.0, resamples=200, seed=0)  # as if a temperature of 3 had made them so
    assert found.ece_after < found.ece_by_chance[1] < found.ece_before
    assert found.nll_gain.low > 0
    assert found.nll_gain.value == pytest.approx(found.nll_before.value - found.nll_after.value)


def test_a_temperature_is_undone_by_its_inverse() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(warmer(warmer(probabilities, 2.0), 0.5), probabilities)
    assert np.max(warmer(probabilities, 2.0)) < 0.7


def test_baselines_learn_what_they_can() -> None:
    truth = np.array([0, 1, 1] * 20)
    texts = ["good" if label else "bad" for label in truth]
    vectors = np.stack([truth, 1 - truth], axis=1).astype(np.float32)
    assert baselines.majority(truth, 2).tolist() == [1, 1]
    shares = np.bincount(baselines.at_random(np.array([0] + [2] * 9), 5000, seed=0), minlength=3) / 5000
    assert shares == pytest.approx([0.1, 0.0, 0.9], abs=0.02)
    assert baselines.tf_idf(LABELLED.linear, texts, truth, ["good", "bad"]).tolist() == [1, 0]
    assert baselines.frozen_backbone(LABELLED.linear, vectors, truth, vectors[:3]).tolist() == [0, 1, 1]


def test_colours_tell_apart_what_differs_in_colour() -> None:
    contents = []
    for number in range(40):
        file = io.BytesIO()
        Image.new("RGB", (30, 20), (200, 0, number) if number % 2 else (0, 200, number)).save(file, "PNG")
        contents.append(file.getvalue())
    truth = np.arange(40) % 2
    assert baselines.shades(contents[:1]).sum() == pytest.approx(3)
    clear, white = plain((10, 20, 30, 0), "RGBA"), plain("white")
    assert (baselines.shades([clear]) == baselines.shades([white])).all()
    assert (
        baselines.colour_histogram(LABELLED.linear, contents[:30], truth[:30], contents[30:]).tolist()
        == truth[30:].tolist()
    )
