"""The report of a version that was really trained, and what it says in other circumstances."""

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from regraft.errors import ConfigError, VersionRefused
from regraft.task import Task
from regraft.versions import Manifest, Metric
from tests.training.conftest import LABELS, examples, write_task
from training import report, summary
from training.beside import Beside
from training.dataset import read_dataset
from training.proof import Mistake, Proof, thumbnail
from training.slices import Slice
from training.train import fine_tune, version_folder
from training.whole import AT_ONCE, Course, Moment

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"
COSTS = {"errors": {"negative": {"positive": 5.0}}, "volume": 1000, "currency": "EUR"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("made")
    file = write_task(folder, backbone, examples(240), training={"epochs": 2}, export={"int8": False}, value=COSTS)
    task = Task.load(file)
    manifest = fine_tune(task, read_dataset(task), folder / "run", version="made")
    return version_folder(folder / "run"), manifest


@pytest.fixture
def manifest(made: tuple[Path, Manifest]) -> Manifest:
    return made[1]


@pytest.fixture
def proof(made: tuple[Path, Manifest]) -> Proof:
    return Proof.load(made[0])


@pytest.fixture
def card(made: tuple[Path, Manifest]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((made[0] / "data_card.json").read_text())
    return read


def rendered(folder: Path, manifest: Manifest, proof: Proof, card: dict[str, Any]) -> str:
    """The page of a version with this proof."""
    proof.save(folder)
    (folder / "data_card.json").write_text(json.dumps(card))
    return report.render(folder, manifest)


def metric(value: float, low: float | None = None, high: float | None = None) -> Metric:
    return Metric(value=value, low=value - 0.01 if low is None else low, high=value + 0.01 if high is None else high)


def a_slice(value: str, *, fails: bool) -> Slice:
    return Slice(
        condition="source", value=value, rows=40, figure=metric(0.4), elsewhere=0.8, p_value=0.001, fails=fails
    )


def test_the_proof_is_of_the_test_part(manifest: Manifest, proof: Proof) -> None:
    rows = manifest.training["rows"]["test"]
    assert sum(map(sum, proof.confusion)) == rows
    right = sum(proof.confusion[place][place] for place in range(3))
    assert right / rows == manifest.test["accuracy"].value
    assert all(
        curve.points[0].figures["accuracy"].value == manifest.test["accuracy"].value for curve in proof.robustness
    )
    assert len(proof.mistakes) == min(rows - right, 15)
    confidences = [one.confidence for one in proof.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    assert all(one.answer != one.truth for one in proof.mistakes)
    assert proof.worth is not None
    assert set(proof.worth.savings) == set(manifest.baselines)


def test_what_it_takes_to_answer_is_measured_in_a_process_of_its_own(proof: Proof) -> None:
    footprint = proof.footprints["fp32"]
    assert 0 < footprint.p50_ms <= footprint.p99_ms
    assert 20e6 < footprint.peak_bytes < proof.peak_bytes


def test_a_proof_is_read_as_it_was_written(proof: Proof, tmp_path: Path) -> None:
    proof.save(tmp_path)
    assert Proof.load(tmp_path) == proof


def test_a_version_without_a_readable_proof_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VersionRefused, match="made by an older Regraft"):
        Proof.load(tmp_path)
    (tmp_path / "proof.json").write_text("{}")
    with pytest.raises(VersionRefused, match="cannot be read"):
        Proof.load(tmp_path)


def test_nothing_in_the_data_becomes_markup(
    manifest: Manifest, proof: Proof, card: dict[str, Any], tmp_path: Path
) -> None:
    mistake = Mistake(id=HOSTILE, place=HOSTILE, input=HOSTILE, truth="neutral", answer="positive", confidence=0.9)
    linked = mistake.model_copy(update={"id": "javascript:alert(1)"})
    hostile = proof.model_copy(
        update={"mistakes": [mistake, linked], "findings": [HOSTILE], "slices": [a_slice(HOSTILE, fails=True)]}
    )
    page = rendered(tmp_path, manifest, hostile, card | {"files": [{"name": HOSTILE, "sha256": "0" * 64}]})
    assert "<script" not in page
    assert "<img" not in page
    assert 'href="javascript' not in page
    assert page.count("&lt;script&gt;") > 5


def test_an_id_that_is_an_address_is_a_link(
    manifest: Manifest, proof: Proof, card: dict[str, Any], tmp_path: Path
) -> None:
    mistake = Mistake(
        id="https://example.org/r?a=1&b=2", place="a.csv:2", input="x", truth="a", answer="b", confidence=1
    )
    page = rendered(tmp_path, manifest, proof.model_copy(update={"mistakes": [mistake]}), card)
    assert '<a href="https://example.org/r?a=1&amp;b=2" rel="noreferrer">' in page


def test_without_costs_there_is_nothing_about_worth(
    manifest: Manifest, proof: Proof, card: dict[str, Any], tmp_path: Path
) -> None:
    assert 'id="worth"' in rendered(tmp_path, manifest, proof, card)
    page = rendered(tmp_path, manifest, proof.model_copy(update={"worth": None}), card)
    assert "worth" not in page.replace("worth a trial", "")
    assert "EUR" not in page


def test_the_page_of_a_candidate_sets_it_against_production(
    made: tuple[Path, Manifest], proof: Proof, card: dict[str, Any], tmp_path: Path
) -> None:
    compared = {
        "rows": 50,
        "candidate": 0.9,
        "production": 0.7,
        "difference": {"accuracy": metric(0.2).model_dump(), "macro_f1": metric(0.1).model_dump()},
    }
    proof.save(tmp_path)
    (tmp_path / "data_card.json").write_text(json.dumps(card))
    report.write(tmp_path, made[1], {"compared_with": "first", "original_test": compared, "newest": compared})
    page = (tmp_path / "report.html").read_text()
    assert page.index("Against production") < page.index("Against the baselines")
    assert page.count("+20.0 points (+19.0 to +21.0)") == 2
    assert "<code>first</code>" in page
    assert "looked at once" not in page
    (tmp_path / report.COMPARISON).unlink()
    assert "The test part was looked at once, at the end." in report.render(tmp_path, made[1])


def test_the_verdict_says_what_how_good_against_what_and_at_what_cost(manifest: Manifest, proof: Proof) -> None:
    said = " ".join(summary.verdict(manifest, proof))
    assert "sorts texts into negative, neutral and positive" in said
    assert f"{manifest.test['accuracy'].value:.1%} right" in said
    assert "simpler alternative" in said
    assert "EUR" in said
    assert re.search(r"answers in \d+\.\d ms", said)


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.1, "so that 10.0 points (9.0 to 11.0) are gained"),
        (0.0, "That is not clearly better"),
        (-0.1, "(x) is better"),
    ],
)
def test_the_verdict_does_not_hide_that_an_alternative_is_as_good(
    manifest: Manifest, proof: Proof, gain: float, words: str
) -> None:
    baselines = {"x": {"accuracy": metric(0.6), "gain/accuracy": metric(gain)}}
    assert words in " ".join(summary.verdict(manifest.model_copy(update={"baselines": baselines}), proof))


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (metric(300.0, 100, 500), "300 EUR more (100 EUR to 500 EUR)"),
        (metric(-120.0, -300, 60), "120 EUR less (-60.00 EUR to 300 EUR)"),
    ],
)
def test_the_verdict_says_whether_another_would_cost_more_or_less(
    manifest: Manifest, proof: Proof, saved: Metric, words: str
) -> None:
    assert proof.worth is not None
    worth = proof.worth.model_copy(update={"savings": {"x": saved}})
    said = " ".join(summary.verdict(manifest, proof.model_copy(update={"worth": worth})))
    assert f"x would cost {words}." in said


@pytest.mark.parametrize(
    ("made_on", "words"),
    [
        ({}, "on 2 processor threads,"),
        ({"device": "cuda", "processes": 1}, "on a GPU and 2 processor threads,"),
        ({"device": "cpu", "processes": 3}, "on 3 processes, each with 2 processor threads,"),
    ],
)
def test_it_is_said_what_a_version_was_made_on(
    manifest: Manifest, proof: Proof, card: dict[str, Any], tmp_path: Path, made_on: dict[str, Any], words: str
) -> None:
    assert (manifest.training["device"], manifest.training["processes"]) == ("cpu", 1)
    older = {name: one for name, one in manifest.training.items() if name not in {"device", "processes"}}
    made = manifest.model_copy(update={"training": older | {"threads": 2} | made_on})
    assert words in summary.verdict(made, proof)[-1]
    assert words in rendered(tmp_path, made, proof, card)


def test_a_failing_slice_is_named_in_verdict_and_advice(manifest: Manifest, proof: Proof, card: dict[str, Any]) -> None:
    failing = proof.model_copy(update={"slices": [a_slice("shop", fails=True), a_slice("street", fails=False)]})
    sentence = "Where source is shop it is clearly worse than elsewhere: 40% right instead of 80%."
    assert sentence in summary.verdict(manifest, failing)
    assert summary.advice(manifest, failing, card)[0].startswith("Label more texts like these: source is shop.")
    assert not any("street" in line for line in summary.advice(manifest, failing, card))


@pytest.mark.parametrize(
    ("rows", "words"), [(1_000, "is the right start"), (100_000, "still the cheaper start"), (2_000_000, "as well")]
)
def test_transfer_or_scratch_depends_on_how_many_labels_there_are(
    manifest: Manifest, proof: Proof, card: dict[str, Any], rows: int, words: str
) -> None:
    larger = manifest.model_copy(update={"training": manifest.training | {"rows": {"train": rows, "test": 0}}})
    assert words in summary.advice(larger, proof, card)[-1]


def test_advice_follows_what_was_measured(manifest: Manifest, proof: Proof, card: dict[str, Any]) -> None:
    vague = {**manifest.test, "accuracy": Metric(value=0.5, low=0.4, high=0.6), "recall/neutral": metric(0.0)}
    poor = manifest.model_copy(update={"test": vague, "baselines": {"x": {"gain/accuracy": metric(0.0)}}})
    curve = proof.robustness[0]
    lost = curve.points[1].model_copy(update={"gain": metric(-0.2)})
    assert proof.calibration is not None
    calibration = proof.calibration.model_copy(update={"ece_after": 0.2, "ece_by_chance": (0.0, 0.1)})
    measured = proof.model_copy(
        update={
            "robustness": [curve.model_copy(update={"points": [curve.points[0], lost]})],
            "calibration": calibration,
        }
    )
    counts = {"train": {"labels": {"negative": 80, "neutral": 3, "positive": 80}}}
    said = "\n".join(summary.advice(poor, measured, card | {"parts": counts}))
    assert "not clearly better than x" in said
    assert "neutral is found least and has the fewest rows, 3" in said
    counts["train"]["labels"]["positive"] = 3
    assert "has the fewest rows" not in "\n".join(summary.advice(poor, measured, card | {"parts": counts}))
    assert "Under typing errors (2% of letters) its accuracy goes from" in said
    assert "Confidence is off by 0.200 on average, more than chance explains (0.100)" in said
    assert "four times as many would halve the interval" in said


@pytest.mark.parametrize(
    ("rows", "weights", "advised"), [(16, "equal", True), (17, "equal", False), (16, "root", False)]
)
def test_weights_are_advised_for_a_rare_label_that_is_found_least_and_has_none(
    manifest: Manifest, proof: Proof, card: dict[str, Any], rows: int, weights: str, advised: bool
) -> None:
    poor = manifest.model_copy(
        update={
            "test": manifest.test | {"recall/neutral": metric(0.0)},
            "training": manifest.training | {"settings": {"label_weights": weights}},
        }
    )
    counts = {"train": {"labels": {"negative": 80, "neutral": rows, "positive": 80}}}
    said = "\n".join(summary.advice(poor, proof, card | {"parts": counts}))
    assert f"neutral is found least and has the fewest rows, {rows}" in said
    assert ("training.label_weights: root finds more" in said) == advised


def test_of_a_label_without_test_rows_nothing_is_said(
    manifest: Manifest, proof: Proof, card: dict[str, Any], tmp_path: Path
) -> None:
    found = {"negative": metric(0.9), "neutral": metric(0.0), "positive": metric(0.9)}
    figures = {f"{name}/{label}": one for name in ("f1", "recall") for label, one in found.items()}
    without = manifest.model_copy(update={"test": manifest.test | figures})
    seen = proof.model_copy(update={"confusion": [[9, 0, 1], [0, 0, 0], [1, 0, 9]]})
    counts = {"train": {"labels": {"negative": 80, "neutral": 3, "positive": 80}}}
    said = [*summary.verdict(without, seen), *summary.advice(without, seen, card | {"parts": counts})]
    assert "It is weakest at negative, of which it finds 90%; 10% it takes for positive." in said
    assert "has the fewest rows" not in "\n".join(said)
    page = rendered(tmp_path, without, seen, card)
    order = re.findall(r'<tr><th scope="row">(\w+)</th><td class="n">\d+</td><td class="v">', page.replace("\n", ""))
    assert order == ["negative", "positive", "neutral"]


def test_many_labels_are_not_all_listed(manifest: Manifest, proof: Proof) -> None:
    labels = (*LABELS, *(f"label {number}" for number in range(5)))
    metrics = {f"{name}/{label}": metric(0.5) for name in ("f1", "recall") for label in labels[3:]}
    many = manifest.model_copy(update={"labels": labels, "test": manifest.test | metrics})
    seen = proof.model_copy(update={"confusion": [[9] * len(labels)] * len(labels)})
    assert "8 labels, among them" in summary.verdict(many, seen)[0]


def point(seconds: float, reached: float) -> dict[str, Any]:
    return {"seconds": seconds, "validation_macro_f1": reached}


SCRATCH = Course(moments=[Moment(seconds=40, reached=0.5), Moment(seconds=80, reached=0.4)], in_time=True)


@pytest.mark.parametrize(
    ("curve", "transfer", "share"),
    [
        ([point(2, 0.3), point(4, 0.6), point(6, 0.7)], 14, 0.65),
        ([point(50, 0.6)], 60, -0.5),  # it was validated for the first time when the other was done
        ([point(2, 0.3)], None, None),
    ],
)
def test_time_is_saved_until_fine_tuning_is_as_good_as_scratch_at_its_best(
    manifest: Manifest,
    proof: Proof,
    card: dict[str, Any],
    curve: list[dict[str, Any]],
    transfer: float | None,
    share: float | None,
) -> None:
    seconds = {"run the frozen layers": 10, "train from scratch": 99, "train all layers at once": 9}
    timed = manifest.model_copy(update={"training": manifest.training | {"seconds": seconds}})
    tried = proof.model_copy(update={"curve": curve, "scratch": SCRATCH})
    saved = summary.saved(timed, tried)
    assert saved is not None
    assert (saved.transfer, saved.scratch) == (transfer, 40)
    assert saved.share == pytest.approx(share)
    said = "\n".join(summary.advice(timed, tried, card))
    assert ("of the time" in said) == (share == 0.65)
    assert ("From scratch the same network got better" in said) == (share is None)
    assert summary.steps(timed) == {"run the frozen layers": 10}


def test_the_page_of_a_thorough_version_shows_the_race(
    manifest: Manifest, proof: Proof, card: dict[str, Any], tmp_path: Path
) -> None:
    assert "from scratch</h3>" not in rendered(tmp_path, manifest, proof, card)
    page = rendered(tmp_path, manifest, proof.model_copy(update={"scratch": SCRATCH}), card)
    assert "The same network from scratch</h3>" in page
    assert "From scratch: at best 0.500 after 40 s." in page


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (metric(0.03, 0.01, 0.05), "Stages helped on this data: .*; they gain 3.0 points"),
        (metric(0.01, -0.01, 0.03), r"Whether stages help on this data cannot be told: .*; the difference is \+1.0"),
        (metric(-0.03, -0.05, -0.01), "Stages did harm on this data: .*lower training.frozen"),
    ],
)
def test_the_page_says_whether_stages_helped(
    manifest: Manifest, proof: Proof, card: dict[str, Any], tmp_path: Path, gain: Metric, said: str
) -> None:
    assert summary.on_stages(manifest, proof) is None
    at_once = {"accuracy": metric(0.7), "macro_f1": metric(0.7), "gain/accuracy": gain, "gain/macro_f1": gain}
    compared = manifest.model_copy(update={"baselines": manifest.baselines | {AT_ONCE: at_once}})
    tried = proof.model_copy(update={"at_once": SCRATCH})
    sentence = summary.on_stages(compared, tried)
    assert sentence is not None
    assert re.search(said, sentence)
    assert sentence in summary.advice(compared, tried, card)
    assert sentence in html.unescape(rendered(tmp_path, compared, tried, card))
    assert summary.best_baseline(compared)[0] != AT_ONCE
    assert "for its usual 2 epochs (80 s), the network" in sentence
    hurried = proof.model_copy(update={"at_once": SCRATCH.model_copy(update={"in_time": False})})
    assert "for the same time (80 s), the network" in (summary.on_stages(compared, hurried) or "")


def test_the_page_says_what_later_epochs_were_about(
    made: tuple[Path, Manifest], manifest: Manifest, proof: Proof, card: dict[str, Any]
) -> None:
    stages = [stage | {"revisit": 0.5, "settle": 0.5} for stage in manifest.training["stages"]]
    some = manifest.model_copy(update={"training": manifest.training | {"stages": stages}})
    pages = [rendered(made[0], one, proof, card) for one in (some, manifest)]
    for sentence in ("50% of the rows that were hardest", "lower 50% of the layers that learn did so in that epoch"):
        assert [sentence in page for page in pages] == [True, False]


def test_two_versions_stand_side_by_side(made: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = made
    shutil.copytree(folder, tmp_path / "other")
    reference = pq.read_table(folder / "reference.parquet").to_pylist()
    worse = [row | {"label": "neutral"} for row in reference]
    pq.write_table(pa.Table.from_pylist(worse), tmp_path / "other" / "reference.parquet")
    other = manifest.model_copy(update={"version": "the-other"})
    beside = Beside.of((folder, manifest), (tmp_path / "other", other))
    assert beside.gains is not None
    assert beside.shared == manifest.training["rows"]["test"]
    assert beside.gains["accuracy"].value == pytest.approx(manifest.test["accuracy"].value - 1 / 3, abs=0.02)
    page = report.render(folder, manifest, beside)
    assert '<a href="#beside">' in page
    assert "<th>the-other</th>" in page


@pytest.mark.parametrize(
    ("file", "column", "shares"), [("reference.parquet", "input", True), ("rows.parquet", "text", False)]
)
def test_a_test_row_is_known_by_its_content_wherever_it_lay(
    made: tuple[Path, Manifest], tmp_path: Path, file: str, column: str, shares: bool
) -> None:
    folder, manifest = made
    shutil.copytree(folder, tmp_path / "other")
    rows = [row | {column: f"other/{row[column]}"} for row in pq.read_table(folder / file).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "other" / file)
    shared = Beside.of((folder, manifest), (tmp_path / "other", manifest)).shared
    assert shared == (manifest.training["rows"]["test"] if shares else 0)


def test_versions_that_share_no_test_rows_get_no_differences(made: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = made
    shutil.copytree(folder, tmp_path / "other")
    reference = pq.read_table(folder / "reference.parquet").to_pylist()
    elsewhere = [row | {"id": f"other {row['id']}"} for row in reference]
    pq.write_table(pa.Table.from_pylist(elsewhere), tmp_path / "other" / "reference.parquet")
    beside = Beside.of((folder, manifest), (tmp_path / "other", manifest))
    assert (beside.shared, beside.gains) == (0, None)
    assert "share no test rows" in report.render(folder, manifest, beside)


def test_versions_of_other_labels_are_not_set_side_by_side(made: tuple[Path, Manifest]) -> None:
    other = made[1].model_copy(update={"labels": ("x", "y")})
    with pytest.raises(ConfigError, match="different labels"):
        Beside.of(made, (made[0], other))


def test_the_largest_confusions_come_first() -> None:
    found = report.largest_confusions([[5, 3, 2], [0, 4, 0], [9, 0, 0]], "abc")
    assert found == [("c", "a", 9, 1.0), ("a", "b", 3, 0.3), ("a", "c", 2, 0.2)]


@pytest.mark.parametrize(("count", "said"), [(12, "12 bytes"), (1500, "2 kB"), (23.7e6, "24 MB"), (3.2e9, "3.2 GB")])
def test_sizes_are_said_in_their_unit(count: float, said: str) -> None:
    assert report.size(count) == said


def test_an_image_is_shown_small_and_within_the_page(
    manifest: Manifest, proof: Proof, card: dict[str, Any], tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (900, 300), "red").save(file, "PNG")
    picture = thumbnail(file.getvalue())
    small = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    assert (small.format, small.size) == ("JPEG", (160, 53))
    mistake = Mistake(id="a", place="b", input="c.png", truth="red", answer="blue", confidence=1, picture=picture)
    page = rendered(tmp_path, manifest, proof.model_copy(update={"mistakes": [mistake]}), card)
    assert f'<img src="{picture}" alt="red, taken for blue">' in html.unescape(page)


def test_a_version_from_before_there_were_numbers_is_read_as_ever(
    made: tuple[Path, Manifest], proof: Proof, tmp_path: Path
) -> None:
    folder, manifest = made
    shutil.copytree(folder, tmp_path / "old")
    with_scratch = proof.model_copy(update={"scratch": SCRATCH})
    old = with_scratch.model_dump(mode="json", exclude={"pairs", "intervals"})
    for one in old["slices"]:
        one["accuracy"] = one.pop("figure")
    for point in (point for curve in old["robustness"] for point in curve["points"]):
        point |= point.pop("figures")
    for moment in old["scratch"]["moments"]:
        moment["macro_f1"] = moment.pop("reached")
    old["curve"] = [{name: value for name, value in point.items() if name != "reached"} for point in old["curve"]]
    (tmp_path / "old" / "proof.json").write_text(json.dumps(old))
    assert Proof.load(tmp_path / "old").robustness == proof.robustness
    stored = manifest.model_dump_json(exclude={"kind", "range", "unit"})
    page = report.render(tmp_path / "old", Manifest.model_validate_json(stored))
    assert page == rendered(
        tmp_path / "old", manifest, with_scratch, json.loads((folder / "data_card.json").read_text())
    )
