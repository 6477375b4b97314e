"""A regression from rows to a version: the tiny network learns how good a text is, in a unit of its own."""

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from regraft.answers import Numbers
from regraft.cli import main
from regraft.preprocessing import Preprocessor, load_preprocessor
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import Manifest, Metric, VersionStore, read_golden
from tests.training.conftest import BAD, FILLER, GOOD, write_task
from training import charts, report
from training.beside import Beside
from training.commands import results_table
from training.data import read
from training.dataset import read_card, read_dataset, split_again
from training.proof import Proof
from training.slices import Slice
from training.targets import target_for
from training.whole import AT_ONCE, FROM_SCRATCH

SPREAD, MIDDLE = 20.0, 500.0  # so that a number that is not in the caller's unit would be seen
COST = {"per_unit": 0.5, "volume": 1000, "currency": "EUR"}


def rated(count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """(id, text, number): the more good words for bad ones, the larger."""
    generator, rows = random.Random(seed), []
    for number in range(count):
        good = generator.randint(0, 4)
        words = generator.choices(FILLER, k=4) + generator.choices(GOOD, k=good) + generator.choices(BAD, k=4 - good)
        generator.shuffle(words)
        value = MIDDLE + SPREAD * (good - 2 + generator.gauss(0, 0.2))
        rows.append((f"r{seed}-{number}", f"{' '.join(words)} word{number}", f"{value:.2f}"))
    return rows


def write_numbers(folder: Path, backbone: Path, rows: list[tuple[str, str, str]], **sections: Any) -> Path:
    allowed = {"minimum": MIDDLE - 4 * SPREAD, "maximum": MIDDLE + 4 * SPREAD}
    regression = {"kind": "regression", "labels": [], "range": allowed, "value": COST}
    return write_task(folder, backbone, rows, **regression | sections)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Settings:
    folder = tmp_path_factory.mktemp("numbers")
    file = write_numbers(folder, backbone, [*rated(400), ("odd", "a text", "many")], training={"epochs": 6})
    result = CliRunner().invoke(
        main, ["--task", str(file), "--home", str(folder / "home"), "train", "--run", "first", "--thorough"]
    )
    assert result.exit_code == 0, result.output
    (folder / "said.txt").write_text(result.output)
    return Settings(task=file, home=folder / "home")


@pytest.fixture
def said(settings: Settings) -> str:
    return (settings.task.parent / "said.txt").read_text()


@pytest.fixture
def manifest(settings: Settings) -> Manifest:
    return VersionStore(settings.versions).manifest("first")


@pytest.fixture
def folder(settings: Settings) -> Path:
    return VersionStore(settings.versions).fetch("first")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "'' is no number"),
        ("many", "'many' is no number"),
        ("nan", "'nan' is no finite number"),
        ("inf", "'inf' is no finite number"),
        ("-1", "-1 is less than the minimum, 420"),
        ("9999", "9999 is more than the maximum, 580"),
    ],
)
def test_what_is_no_number_in_range_is_a_bad_row(tmp_path: Path, backbone: Path, given: str, reason: str) -> None:
    table = read(Task.load(write_numbers(tmp_path, backbone, [*rated(3), ("bad", "text", given)])))
    assert len(table.rows) == 3
    assert [str(row) for row in table.bad] == [f"data.csv:5: {reason}"]


def test_it_learns_and_beats_the_mean(manifest: Manifest, said: str) -> None:
    assert manifest.answers == Numbers(minimum=420, maximum=580)
    assert manifest.test["mae"].value < 0.6 * SPREAD
    assert manifest.test["r2"].low > 0.3
    assert set(manifest.baselines) == {
        "at random", "the mean", "the median", "TF-IDF, linear", "frozen backbone, linear", AT_ONCE, FROM_SCRATCH
    }  # fmt: skip
    assert manifest.baselines["the mean"]["gain/mae"].low > 0
    assert manifest.unit == pytest.approx(SPREAD * 1.4, rel=0.15)
    assert re.search(r"on the test part +MAE +R² +MAE gained\n", said)
    assert "data.csv:402: 'many' is no number" in said


def test_the_graph_answers_in_the_callers_unit_with_an_interval(folder: Path, manifest: Manifest) -> None:
    session = onnxruntime.InferenceSession(folder / manifest.artifacts[manifest.serve_cpu].file)
    assert [one.name for one in session.get_outputs()] == ["value", "features"]
    preprocessor: Preprocessor = load_preprocessor(folder)
    texts = ["awful bad poor broken the a it", "good great lovely fine the a it"]
    worse, better = session.run(["value"], preprocessor.collate(preprocessor.encode(texts)))[0]
    for value, low, high, confidence in (worse, better):
        assert 420 <= low < value < high <= 580
        assert 0 <= confidence <= 1
    assert worse[0] + SPREAD < MIDDLE < better[0] - SPREAD
    for example in read_golden(folder):
        found = session.run(["value"], preprocessor.collate(preprocessor.encode([example["input"]])))[0]
        expected = np.array(example["by_precision"][manifest.serve_cpu])
        assert manifest.answers.difference(found[0], expected, manifest.unit) <= manifest.tolerance


def test_the_reference_holds_numbers_as_text_and_how_sure_they_are(folder: Path, manifest: Manifest) -> None:
    rows = [row for row in pq.read_table(folder / "reference.parquet").to_pylist() if row["part"] == "test"]
    off = [abs(float(row["label"]) - float(row["true_label"])) for row in rows]
    assert np.mean(off) == pytest.approx(manifest.test["mae"].value, rel=1e-4)
    assert all(0 <= row["confidence"] <= 1 for row in rows)


def test_the_proof_says_how_far_off_it_is_and_whether_intervals_hold(folder: Path, manifest: Manifest) -> None:
    proof = Proof.load(folder)
    assert proof.intervals is not None
    assert proof.intervals.coverage.high > 0.85
    assert len(proof.pairs) == manifest.training["rows"]["test"]
    off = [abs(float(one.answer) - float(one.truth)) for one in proof.mistakes]
    assert max(np.diff(off)) < 1e-3  # the furthest first, but for what seven digits hide
    assert {curve.change for curve in proof.robustness} == {"typing errors", "cutting off", "other case"}
    assert proof.worth is not None
    assert proof.worth.cost.value == pytest.approx(500 * manifest.test["mae"].value, rel=1e-4)
    assert proof.worth.savings["the mean"].low > 0
    for artifact in manifest.artifacts.values():
        assert artifact.mae is not None
        assert artifact.measured["neighbour_difference"] < 1e-3


def test_the_report_shows_truths_answers_and_intervals(settings: Settings, folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)\b|@import|url\((?!#)", page)
    for anchor in re.findall(r'<a href="#(\w+)">', page):
        assert page.count(f'<h2 id="{anchor}">') == 1
    for words in ("it was off by", "Answers and truths", "Can its intervals be believed?", "answer minus truth", "R²"):
        assert words in page
    assert "accuracy" not in page
    assert "macro F1" not in page
    out = settings.home / "both.html"
    arguments = ["--task", str(settings.task), "--home", str(settings.home)]
    again = CliRunner().invoke(main, [*arguments, "report", "first", "--compare", "first", "--out", str(out)])
    assert again.exit_code == 0, again.output
    assert "truths within" in out.read_text()


def test_small_units_are_not_rounded_away(folder: Path, manifest: Manifest) -> None:
    off = Metric(value=0.0012, low=0.0008, high=0.0016)
    test = manifest.test | {"mae": off, "rmse": off}
    baselines = {name: metrics | {"mae": off, "gain/mae": off} for name, metrics in manifest.baselines.items()}
    small = manifest.model_copy(update={"test": test, "baselines": baselines})
    page = report.render(folder, small)
    assert "<b>0.0012</b>" in page
    assert page.count('0.0012 <span class="range">0.0008 to 0.0016</span>') == 3 + len(baselines)
    assert page.count('+0.0012 <span class="range">+0.0008 to +0.0016</span>') == len(baselines)
    assert "+0.0012 (+0.0008 to +0.0016)" in results_table(small)


def test_large_numbers_have_no_exponent() -> None:
    target = target_for(Numbers())
    (worst,) = target.worst(np.array([250000.0]), np.array([[251300.0, 0, 0, 0.5]], dtype=np.float32))
    assert (worst.truth, worst.answer) == ("250000", "251300")


def test_what_is_drawn_fits_its_scale(folder: Path, manifest: Manifest) -> None:
    beside = Beside.of((folder, manifest), (folder, manifest))
    assert beside.gains is not None
    far = beside._replace(gains=beside.gains | {"mae": Metric(value=-500, low=-900, high=-100)})
    (difference, *others) = [
        re.findall(r'<line class="range" x1="([-.\d]+)"', row)
        for row in re.findall(r'<tr class="gain">.*?</tr>', report.render(folder, manifest, far), flags=re.DOTALL)
    ]
    assert difference == ["2.0"]
    assert others == [[], []]  # the scale is that of the mean error alone
    off = Metric(value=500, low=100, high=900)
    poor = Slice(condition="words", value="1", rows=10, figure=off, elsewhere=10, p_value=1, fails=False)
    shown = report.drawn(manifest, Proof.load(folder).model_copy(update={"slices": [poor]}), None, None)
    assert report.scales("mae", shown)["figure"] == (0, 900)


def test_intervals_that_are_equally_wide_are_not_drawn_by_their_width(folder: Path, manifest: Manifest) -> None:
    held = Proof.load(folder).intervals
    assert held is not None
    for adaptive in (True, False):
        proof = Proof.load(folder).model_copy(update={"intervals": held.model_copy(update={"adaptive": adaptive})})
        assert (report.of_numbers(manifest, proof)["widths"] is not None) == adaptive


def test_the_robustness_of_numbers_is_drawn_on_the_scale_of_the_mean_error(folder: Path) -> None:
    drawn = charts.robustness(Proof.load(folder).robustness)
    assert "mean absolute error on changed inputs" in drawn
    assert "R²" not in drawn


def test_the_same_card_makes_the_same_split(settings: Settings, folder: Path) -> None:
    task = Task.load(settings.task)
    assert json.loads((folder / "data_card.json").read_text()) == read_dataset(task).card
    parts = split_again(read_card(folder / "data_card.json"), task.model_copy(update={"range": None}))
    assert parts == read_dataset(task).parts


def test_backbones_are_compared_by_the_mean_error(settings: Settings) -> None:
    arguments = ["--task", str(settings.task), "--home", str(settings.home), "compare"]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    assert "MAE (95% interval)" in run.output
    saved = json.loads((settings.home / "compare.json").read_text())
    assert saved["judged"] == "mae"
    assert saved["tried"][0]["figures"]["mae"]["value"] < 1.4 * SPREAD


def test_numbers_of_pictures_are_read_from_a_table(tmp_path: Path) -> None:
    from PIL import Image

    for name, shade in (("dark", 20), ("bright", 220)):
        Image.new("RGB", (24, 24), (shade,) * 3).save(tmp_path / f"{name}.png")
    with (tmp_path / "data.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "shade"), ("dark.png", "0.1"), ("bright.png", "high")])
    task = Task.model_validate(
        {
            "name": "shades", "kind": "regression", "input": "image", "backbone": {"source": "none"},
            "data": {"files": [str(tmp_path / "data.csv")], "columns": {"input": "file", "label": "shade"}},
        }
    )  # fmt: skip
    table = read(task)
    assert [row.label for row in table.rows] == ["0.1"]
    assert [str(row) for row in table.bad] == ["data.csv:3: 'high' is no number"]
