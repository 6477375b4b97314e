import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from regraft.cli import main
from regraft.errors import ConfigError, DataError
from regraft.sections import Backbone
from regraft.task import Task
from regraft.versions import Metric
from tests.training.conftest import CARD, examples, save_backbone, write_task
from training.compare import FOLDS, Comparison, Tried, folds_of, sample, table, try_backbones
from training.data import Row
from training.dataset import read_dataset

REAL = Path(__file__).parents[2] / "examples" / "reviews" / "data"


def tried(source: str, f1: float, p50_ms: float) -> Tried:
    quality = Metric(value=f1, low=f1 - 0.03, high=f1 + 0.03)
    return Tried(
        source=source, licence="mit", figures=dict.fromkeys(("accuracy", "macro_f1"), quality), behind=quality,
        parameters=1_000_000,
        artifact_bytes=4_000_000, peak_bytes=90_000_000, p50_ms=p50_ms, p99_ms=2 * p50_ms,
    )  # fmt: skip


def test_the_cheapest_within_the_interval_of_the_best_is_named() -> None:
    candidates = [tried("large", 0.80, 9.0), tried("middle", 0.78, 5.0), tried("small", 0.76, 1.0)]
    comparison = Comparison(
        rows=500, judged="macro_f1", tried=candidates, refused={"odd": "the backbone odd states no licence"}
    )
    assert (comparison.best.source, comparison.cheapest.source) == ("large", "middle")
    said = table(comparison)
    assert said[-1].startswith("take middle: within the interval of large, the best, at 56% of its time")
    assert "not tried: the backbone odd states no licence" in said
    assert said[-1].endswith("its time, 0.780 (0.750 to 0.810) behind in macro F1")
    alone = Comparison(rows=500, judged="macro_f1", tried=candidates[:1] + candidates[2:], refused={})
    assert table(alone)[-1] == "take large: none that is cheaper comes within the interval of its macro F1"


@pytest.fixture
def smaller(tmp_path: Path) -> Path:
    return save_backbone(tmp_path / "smaller", layers=1)


def test_backbones_are_tried_compared_and_saved(tmp_path: Path, backbone: Path, smaller: Path) -> None:
    unlicensed = save_backbone(tmp_path / "unlicensed", layers=1, card=CARD.replace("apache-2.0", "cc-by-nc-4.0"))
    others = [{"source": "smaller"}]
    file = write_task(tmp_path, backbone, examples(200), compare={"backbones": others, "examples": 60})
    run = CliRunner().invoke(main, ["--task", str(file), "--home", str(tmp_path / "home"), "compare", str(unlicensed)])
    assert run.exit_code == 0, run.output
    assert "cross-validated on 60 training rows" in run.output
    assert "has the licence 'cc-by-nc-4.0'" in run.output
    saved = json.loads((tmp_path / "home" / "compare.json").read_text())
    assert {one["source"] for one in saved["tried"]} == {str(backbone), str(smaller)}
    assert list(saved["refused"]) == [str(unlicensed)]
    by_source = {one["source"]: one for one in saved["tried"]}
    large, small = by_source[str(backbone)], by_source[str(smaller)]
    assert large["parameters"] > small["parameters"]
    assert large["artifact_bytes"] > small["artifact_bytes"]
    for one in (large, small):
        assert one["figures"]["macro_f1"]["low"] <= one["figures"]["macro_f1"]["value"]
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["peak_bytes"] > one["artifact_bytes"]
        assert one["source"] in run.output or one["source"][-32:] in run.output
    assert saved["tried"][0]["behind"] == {"value": 0, "low": 0, "high": 0}
    assert f"take {saved['cheapest']}" in run.output


def test_the_sample_is_of_the_training_part_and_the_same_for_a_seed(task: Task) -> None:
    parts = read_dataset(task).parts
    rows = sample(parts.train, 50, seed=3)
    assert rows == sample(parts.train, 50, seed=3)
    assert rows != sample(parts.train, 50, seed=4)
    assert {row.id for row in rows} <= {row.id for row in parts.train}
    assert sample(parts.train, 10_000, seed=3)
    assert len({row.id for row in rows}) == 50
    shares = [Counter(row.label for row in some) for some in (parts.train, rows)]
    assert all(abs(shares[1][label] - 50 * count / len(parts.train)) <= 1 for label, count in shares[0].items())


def test_every_fold_has_its_share_of_labels_and_of_large_numbers() -> None:
    labels, numbers = np.array([0] * 38 + [1] * 2), np.random.default_rng(0).lognormal(size=40)
    for seed in range(20):
        folds = folds_of(labels, seed)
        assert np.bincount(folds).tolist() == [8] * FOLDS
        assert len(set(folds[labels == 1])) == 2, "a head is fitted on one of the two rows at least"
        assert np.bincount(folds_of(numbers, seed)[np.argsort(numbers)[-5:]]).tolist() == [1] * FOLDS
    assert (folds_of(labels, 1) != folds_of(labels, 2)).any()


def test_two_rows_of_a_label_are_enough_to_compare_on(tmp_path: Path, backbone: Path) -> None:
    options = {"labels": ["negative", "positive"], "data": {"files": ["data.csv"], "seed": 11}}
    task = Task.load(write_task(tmp_path, backbone, examples(30), **options))
    labels = ["negative"] * 10 + ["positive"] * 2
    rows = [Row(str(n), f"word{n} {label}", label, "") for n, label in enumerate(labels)]
    assert try_backbones(task, rows, [task.backbone]).rows == 12


@pytest.mark.skipif(not (REAL / "complete").exists(), reason="the example's data has not been fetched")
def test_half_of_a_real_network_costs_half(tmp_path: Path) -> None:
    task = Task.load(REAL.parent / "task.yaml")
    half = first_layers(Path(task.backbone.source), tmp_path / "half", 3)
    rows = sample(read_dataset(task).parts.train, 100, seed=0)
    tried = try_backbones(task, rows, [task.backbone, Backbone(source=str(half))]).tried
    whole, half_of_it = sorted(tried, key=lambda one: -one.parameters)
    assert whole.parameters - half_of_it.parameters == 3 * 1_774_464  # each layer of width 384
    assert whole.artifact_bytes > half_of_it.artifact_bytes > 40_000_000
    assert min(one.figures["macro_f1"].value for one in tried) > 0.4


def first_layers(source: Path, folder: Path, count: int) -> Path:
    """The encoder of `source` without its upper layers, as a backbone of its own."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": count}))
    weights = load_file(source / "model.safetensors")
    gone = tuple(f"encoder.layer.{n}." for n in range(count, config["num_hidden_layers"]))
    save_file(
        {name: values for name, values in weights.items() if not name.startswith(gone)}, folder / "model.safetensors"
    )
    return folder


def test_what_cannot_be_compared_says_why(task: Task) -> None:
    with pytest.raises(DataError, match="3 rows are too few to compare on; 10 of two labels are needed"):
        try_backbones(task, [Row(str(n), "text", "neutral", "") for n in range(3)], [task.backbone])
    lone = [Row(str(n), f"word{n}", "neutral" if n else "positive", "") for n in range(20)]
    with pytest.raises(DataError, match="10 of two labels are needed, and two rows of each"):
        try_backbones(task, lone, [task.backbone])
    rows = sample(read_dataset(task).parts.train, 20, seed=0)
    with pytest.raises(ConfigError, match=r"no backbone can be used:\nthe backbone .* has no safetensors"):
        try_backbones(task, rows, [Backbone(source="tests")])
