import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from training import baselines
from training.calibrate import bins, ece, fit_temperature, nll, warmer
from training.evaluate import compare, evaluate, evaluate_baselines, macro_f1

LABELS = ("a", "b", "c")
OPTIONS = {"resamples": 500, "seed": 0}


def answers(rng: np.random.Generator, truth: np.ndarray, right: float) -> np.ndarray:
    return np.where(rng.random(len(truth)) < right, truth, rng.integers(0, 3, len(truth)))


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    predicted = answers(rng, truth, 0.6)
    found = evaluate(truth, predicted, LABELS, **OPTIONS)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted)
    assert np.array_equal(found.confusion, confusion_matrix(truth, predicted))
    assert found.metrics["accuracy"].value == pytest.approx(np.mean(truth == predicted))
    assert found.metrics["macro_f1"].value == pytest.approx(f1_score(truth, predicted, average="macro"))
    for index, label in enumerate(LABELS):
        assert found.metrics[f"precision/{label}"].value == pytest.approx(precision[index])
        assert found.metrics[f"recall/{label}"].value == pytest.approx(recall[index])
        assert found.metrics[f"f1/{label}"].value == pytest.approx(f1[index])
    assert macro_f1(truth, predicted, 3) == pytest.approx(f1.mean())


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for seed in range(300):
        truth = rng.integers(0, 2, 150)
        right = rng.random(150) < 0.8
        metric = evaluate(truth, np.where(right, truth, 1 - truth), LABELS[:2], resamples=300, seed=seed).metrics
        covered += metric["accuracy"].low <= 0.8 <= metric["accuracy"].high
    assert 0.91 < covered / 300 <= 0.99


def test_a_paired_difference_is_narrower_than_the_intervals_of_both() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 400)
    theirs = answers(rng, truth, 0.6)
    ours = np.where(rng.random(400) < 0.1, truth, theirs)  # theirs, with some mistakes mended
    gain = compare(truth, ours, theirs, LABELS, **OPTIONS)["accuracy"]
    alone = evaluate(truth, ours, LABELS, **OPTIONS).metrics["accuracy"]
    assert gain.value == pytest.approx(np.mean(ours == truth) - np.mean(theirs == truth))
    assert 0 < gain.low < gain.high
    assert gain.high - gain.low < 0.7 * (alone.high - alone.low)


def test_a_model_gains_nothing_over_itself() -> None:
    truth = np.arange(30) % 3
    gains = evaluate_baselines(truth, truth, {"itself": truth}, LABELS, **OPTIONS)["itself"]
    assert (gains["gain/accuracy"].low, gains["gain/accuracy"].high) == (0.0, 0.0)
    assert gains["accuracy"].value == 1.0


def test_a_label_that_is_never_answered_or_never_true_counts_as_nought() -> None:
    metrics = evaluate(np.array([0, 0, 1]), np.array([0, 0, 0]), LABELS, **OPTIONS).metrics
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


def test_a_temperature_is_undone_by_its_inverse() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(warmer(warmer(probabilities, 2.0), 0.5), probabilities)
    assert warmer(probabilities, 2.0).max() < 0.7


def test_baselines_learn_what_they_can() -> None:
    truth = np.array([0, 1, 1] * 20)
    texts = ["good" if label else "bad" for label in truth]
    vectors = np.stack([truth, 1 - truth], axis=1).astype(np.float32)
    assert baselines.majority(truth, 2).tolist() == [1, 1]
    assert baselines.tf_idf(texts, truth, ["good", "bad"]).tolist() == [1, 0]
    assert baselines.frozen_backbone(vectors, truth, vectors[:3]).tolist() == [0, 1, 1]
