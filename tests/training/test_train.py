"""The experiment as a whole: what a version holds, what the commands say, and runs that are killed."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from regraft import releases
from regraft.cli import main
from regraft.errors import ConfigError
from regraft.eventlog import open_log
from regraft.preprocessing import TextPreprocessor
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import Manifest, VersionStore, read_golden
from tests.training.conftest import LABELS, examples, unmeasured, write_csv, write_task
from training.dataset import read_dataset
from training.proof import Proof
from training.summary import BESIDES
from training.train import fine_tune

REAL = Path(__file__).parents[2] / "examples" / "reviews" / "data"


def regraft(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--task", str(file), "--home", str(file.parent / "home"), *arguments])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> tuple[Settings, Result]:
    """What `regraft train` left, and said."""
    folder = tmp_path_factory.mktemp("published")
    rows = [*examples(240), ("bad", "a box", "no such label"), ("again", examples(1)[0][1], "neutral")]
    file = write_task(folder, backbone, rows, training={"epochs": 2}, report={"scratch_seconds": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.domain.PIECES", 0.5)
        result = regraft(file, "train", "--run", "first", "--thorough")
    assert result.exit_code == 0, result.output
    return Settings(task=file, home=folder / "home"), result


@pytest.fixture(scope="module")
def manifest(published: tuple[Settings, Result]) -> Manifest:
    return VersionStore(published[0].versions).manifest("first")


@pytest.fixture(scope="module")
def folder(published: tuple[Settings, Result]) -> Path:
    return VersionStore(published[0].versions).fetch("first")


def test_train_says_what_it_found_and_how_good_it_got(published: tuple[Settings, Result]) -> None:
    said = published[1].output
    assert "unknown label 'no such label'" in said
    assert "inputs with more than one label (1)" in said
    assert "the backbone breaks each word into" in said
    for row in (
        "version first",
        "at random",
        "majority label",
        "frozen backbone, linear",
        "all layers at once",
        "same network, from scratch",
    ):
        assert re.search(rf"{row} +[01]\.\d+ \([01]\.\d+ to [01]\.\d+\)", said), said
    assert "version first is in production" in said
    seconds = VersionStore(published[0].versions).manifest("first").training["seconds"]
    made = sum(taken for name, taken in seconds.items() if name not in BESIDES)
    assert f"made in {made:.0f} s" in said
    (report,) = re.findall(r"report: (\S+)", said)
    assert Path(report).is_file()
    left = {file.name for file in (published[0].runs / "first").iterdir()}
    assert left == {"run.json", "tensorboard"}


def test_the_first_version_is_released_and_the_second_waits(
    published: tuple[Settings, Result], tmp_path: Path, manifest: Manifest
) -> None:
    settings, _ = published
    release = releases.current(open_log(settings.log))
    assert (release.production, release.who) == ("first", "train")
    VersionStore(settings.versions).publish(tmp_path, manifest.model_copy(update={"version": "second"}))
    again = regraft(settings.task, "train", "--run", "second")
    assert "to put it into production: regraft release promote second" in again.output
    assert releases.current(open_log(settings.log)).production == "first"


def test_a_run_that_was_published_is_not_trained_again(published: tuple[Settings, Result]) -> None:
    again = regraft(published[0].task, "train", "--run", "first")
    assert again.exit_code == 0
    assert "run first" not in again.output
    assert "version first is in production" in again.output


def test_check_says_the_same_and_trains_nothing(published: tuple[Settings, Result]) -> None:
    settings, _ = published
    said = regraft(settings.task, "check")
    assert said.exit_code == 0
    assert "bad rows, left out (1)" in said.output
    assert re.search(r"split: \d+ train, \d+ validation, \d+ test", said.output)
    assert "bert, licence apache-2.0; it takes text in a vocabulary of 1,132 tokens, at most 64" in said.output
    assert "pre-trained on made-up, as its model card says" in said.output


def test_check_makes_the_split_of_a_version_again(published: tuple[Settings, Result], folder: Path) -> None:
    said = regraft(published[0].task, "check", "--card", str(folder / "data_card.json"))
    assert said.exit_code == 0
    assert re.match(r"the files are those of the card, and so is the split: \d+ train, \d+ validation", said.output)


def test_check_says_it_as_json(published: tuple[Settings, Result], tmp_path: Path) -> None:
    said = regraft(published[0].task, "check", "--json")
    assert (said.exit_code, json.loads(said.output)["errors"]) == (0, [])
    failed = regraft(write_task(tmp_path, tmp_path, [("1", "a", "positive")]), "check", "--json")
    assert failed.exit_code == 1
    assert [error.split(" ")[0] for error in json.loads(failed.output)["errors"]][-1] == "the"


def test_check_fails_with_a_sentence(tmp_path: Path, backbone: Path) -> None:
    failed = regraft(write_task(tmp_path, backbone, [("1", "a", "positive")]), "check")
    assert failed.exit_code == 1
    assert "Error: fewer than 2 rows of label" in failed.output


def test_a_version_holds_what_it_takes_to_serve_watch_and_go_on(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} >= {
        "model.onnx",
        "tokenizer.json",
        "preprocessing.json",
        "golden.json",
        "reference.parquet",
        "rows.parquet",
        "data_card.json",
        "proof.json",
        "report.html",
        "suffix.safetensors",
        "manifest.json",
    }


def test_a_server_can_reproduce_the_golden_examples(folder: Path, manifest: Manifest) -> None:
    preprocessor = TextPreprocessor.load(folder)
    assert preprocessor.sha256 == manifest.preprocessing_sha256
    session = onnxruntime.InferenceSession(folder / manifest.artifacts[manifest.serve_cpu].file)
    for example in read_golden(folder):
        tensors = preprocessor.collate(preprocessor.encode([example["input"]]))
        assert {name: values[0].tolist() for name, values in tensors.items()} == example["tensors"]
        probabilities = session.run(["probabilities"], tensors)[0][0]
        assert np.abs(probabilities - example["by_precision"][manifest.serve_cpu]).max() <= manifest.tolerance


def test_the_reference_is_what_the_version_answers_where_it_was_not_trained(folder: Path, manifest: Manifest) -> None:
    rows = pq.read_table(folder / "reference.parquet").to_pylist()
    tested = [row for row in rows if row["part"] == "test"]
    assert len(rows) == sum(manifest.training["rows"][part] for part in ("validation", "test"))
    assert np.mean([row["label"] == row["true_label"] for row in tested]) == manifest.test["accuracy"].value
    for row in rows:
        assert row["label"] == LABELS[int(np.argmax(row["probabilities"]))]
        assert row["confidence"] == pytest.approx(max(row["probabilities"]))
        assert len(row["features"]) == manifest.features


def test_the_same_card_makes_the_same_split(folder: Path, published: tuple[Settings, Result]) -> None:
    card = json.loads((folder / "data_card.json").read_text())
    assert card == read_dataset(Task.load(published[0].task)).card


def test_the_report_stands_alone_and_shows_everything(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)\b|@import|url\((?!#)", page)
    anchors = re.findall(r'<a href="#(\w+)">', page)
    assert len(anchors) == 10
    for anchor in anchors:
        assert page.count(f'<h2 id="{anchor}">') == 1
    assert "apache-2.0" in page
    assert "made-up" in page
    assert len(page) < 1_000_000


def test_the_report_of_a_version_can_be_made_again_and_sent_on(
    published: tuple[Settings, Result], folder: Path, tmp_path: Path
) -> None:
    settings, _ = published
    again = regraft(settings.task, "report", "first")
    assert again.output == f"report: {settings.home}/reports/first.html\n"
    assert (settings.home / "reports" / "first.html").read_text() == (folder / "report.html").read_text()
    beside = regraft(settings.task, "report", "first", "--compare", "first", "--out", str(tmp_path / "both.html"))
    assert beside.exit_code == 0, beside.output
    assert "Beside version" in (tmp_path / "both.html").read_text()
    missing = regraft(settings.task, "report", "no-such")
    assert (missing.exit_code, missing.output) == (1, "Error: there is no version 'no-such'\n")


def test_every_picture_of_the_report_says_what_it_shows(folder: Path) -> None:
    pictures = re.findall(r"<svg[^>]*>", (folder / "report.html").read_text())
    assert len(pictures) > 10
    assert all('role="img" aria-label="' in picture for picture in pictures)


def test_the_same_seed_gives_the_same_version_whatever_the_test_part_holds(task: Task, tmp_path: Path) -> None:
    dataset = read_dataset(task)
    another = dataset.parts._replace(test=[row._replace(label="neutral") for row in dataset.parts.test[:9]])
    datasets = {"one": dataset, "two": dataset, "three": dataset._replace(parts=another)}
    one, two, three = (fine_tune(task, data, tmp_path / name, version="v") for name, data in datasets.items())
    assert (one.test, one.validation, one.temperature) == (two.test, two.validation, two.temperature)
    assert one.test != three.test
    assert (one.validation, one.preprocessing_sha256) == (three.validation, three.preprocessing_sha256)
    models = {(tmp_path / name / "version" / "model.onnx").read_bytes() for name in datasets}
    assert len(models) == 1  # the network, its temperature, and the directions that drift is watched on


def test_a_run_that_was_begun_with_other_data_is_refused(task: Task, tmp_path: Path) -> None:
    fine_tune(task, read_dataset(task), tmp_path / "run", version="v")
    write_csv(Path(task.data.files[0]), examples(150, seed=9))
    with pytest.raises(ConfigError, match="was begun with another task or other data"):
        fine_tune(task, read_dataset(task), tmp_path / "run", version="v")


# Each kills its process for good the n-th time that a function is called: `owner`, `name`, n.
KILLS = {
    "while a checkpoint is written": ("training.checkpoint", "save_file", 2),
    **{f"at batch {n} after going on": ("training.loop", "train_batch", n) for n in (9, 3, 8, 2, 7)},  # of 33
    "when training is done": ("training.learning", "fit", -1),
    "while the version is exported": ("training.train", "write_golden", 1),
    "before the version gets its name": ("pathlib:Path", "rename", 1),
    "before it is released": ("training.commands", "release_first", 1),
}
# Imports once and forks, since importing takes longer than training; no thread runs yet when it forks.
SCRIPT = """
import json, os, pkgutil, signal, sys, traceback
import torch._dynamo, transformers.models.bert.modeling_bert
import training.train, training.commands
from regraft.cli import main

def run(owner, name, count):
    victim, left = pkgutil.resolve_name(owner), abs(count)
    call = getattr(victim, name)
    def dies(*given, **options):
        nonlocal left
        left -= 1
        if count < 0:
            call(*given, **options)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **options)
    setattr(victim, name, dies)
    main(sys.argv[2:])

for owner, name, count in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        try:
            run(owner, name, count)
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # the exit handlers of libraries wait for threads that did not come along
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def killed(tmp_path: Path, backbone: Path) -> Path:
    """A task whose training was killed at each of the points, always going on with the same run."""
    stages = {"epochs": 2, "stages": 2, "stage_epochs": 1, "force": True}
    file = write_task(tmp_path, backbone, examples(240), training=stages, export={"int8": False})
    options = ["--task", str(file), "--home", str(tmp_path / "home"), "train", "--run", "it"]
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(KILLS.values())), *options]
    environment = unmeasured() | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    codes = [line for line in run.stdout.splitlines() if line.removeprefix("-").isdigit()]
    assert codes == [str(-signal.SIGKILL)] * len(KILLS), run.stderr[-3000:]
    return file


def test_killed_again_and_again_it_publishes_once_and_what_it_would_have(killed: Path, tmp_path: Path) -> None:
    settings = Settings(task=killed, home=tmp_path / "home")
    assert releases.current(open_log(settings.log)).production is None
    result = regraft(killed, "train", "--run", "it")
    assert result.exit_code == 0, result.output
    (published,) = VersionStore(settings.versions).list()
    assert releases.current(open_log(settings.log)).production == "it"
    task = Task.load(killed)
    straight = fine_tune(task, read_dataset(task), tmp_path / "straight", version="it")
    assert (published.test, published.validation) == (straight.test, straight.validation)
    for what in ("best_step", "steps", "stages", "findings"):
        assert published.training[what] == straight.training[what]
    assert len(straight.training["stages"]) == 2
    last = Proof.load(VersionStore(settings.versions).fetch("it")).curve[-1]
    assert published.training["seconds"]["train"] >= last["seconds"] - 0.01  # also what came before it was killed
    assert published.files["model.onnx"].bytes == (tmp_path / "straight" / "version" / "model.onnx").stat().st_size


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "minilm").is_dir(), reason="examples/reviews/fetch.py has not been run")
def test_the_real_network_beats_its_baselines_on_real_reviews(tmp_path: Path) -> None:
    task = Task.load(REAL.parent / "task.yaml")
    short = task.training.model_copy(update={"epochs": 2})
    task = task.model_copy(update={"training": short})
    manifest = fine_tune(task, read_dataset(task), tmp_path, version="v")
    assert manifest.test["accuracy"].value > 0.70
    for name, baseline in manifest.baselines.items():
        assert baseline["gain/accuracy"].low > 0, name
    for artifact in manifest.artifacts.values():
        assert artifact.measured["neighbour_difference"] < 1e-3
