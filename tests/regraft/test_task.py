"""The task file says what is wrong with it: key, file and line."""

from pathlib import Path

import pytest

from regraft.errors import ConfigError
from regraft.task import Task

SMALL = """\
name: reviews
labels: [bad, good]
backbone: {source: hub/model}
data: {files: [data.csv]}
"""
NUMBERS = """\
name: ratings
kind: regression
backbone: {source: hub/model}
data: {files: [data.csv]}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "task.yaml"
    file.write_text(text)
    return file


def test_a_small_task_gets_every_default(tmp_path: Path) -> None:
    task = Task.load(write(tmp_path, SMALL))
    assert task.training.frozen is None
    assert (task.data.validation, task.data.test) == (0.15, 0.15)
    assert task.retraining.new_labels == 500


def test_paths_are_relative_to_the_task_file(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    task = Task.load(write(tmp_path, SMALL.replace("hub/model", "weights")))
    assert task.data.files == (str(tmp_path / "data.csv"),)
    assert task.backbone.source == str(tmp_path / "weights")


def test_a_hub_id_stays_a_hub_id(tmp_path: Path) -> None:
    assert Task.load(write(tmp_path, SMALL)).backbone.source == "hub/model"


def test_a_request_to_an_image_task_may_be_larger(tmp_path: Path) -> None:
    assert Task.load(write(tmp_path, SMALL)).serving.max_body_bytes == 1_000_000
    images = SMALL + "input: image\n"
    assert Task.load(write(tmp_path, images)).serving.max_body_bytes == 10_000_000
    assert Task.load(write(tmp_path, images + "serving: {max_body_bytes: 5000}\n")).serving.max_body_bytes == 5000


def test_pictures_and_numbers_keep_the_usual_momentum_unless_the_task_says_otherwise(tmp_path: Path) -> None:
    pictures, asked = SMALL + "input: image\n", "training: {momentum: 0.3}\n"
    kinds = (SMALL, pictures, NUMBERS, pictures + asked, NUMBERS + asked)
    assert [Task.load(write(tmp_path, text)).training.momentum for text in kinds] == [0.5, 0.9, 0.9, 0.3, 0.3]


def test_of_numbers_each_epoch_is_like_the_first_unless_the_task_says_otherwise(
    tmp_path: Path,
) -> None:
    labels, numbers, asked = (
        Task.load(write(tmp_path, text)).training
        for text in (SMALL, NUMBERS, NUMBERS + "training: {revisit: 0.4, settle: 0.3}\n")
    )
    assert (labels.revisit, labels.settle) == (None, None)
    assert (numbers.revisit, numbers.settle) == (1.0, 0.0)
    assert (asked.revisit, asked.settle) == (0.4, 0.3)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (SMALL + "colour: red\n", 5, "unknown key 'colour'"),
        (SMALL + "training:\n  epochs: 3\n  speed: fast\n", 7, "unknown key 'training.speed'"),
        (SMALL + "training:\n  epochs: many\n", 6, "'training.epochs'"),
        (SMALL + "training: {epochs: 0}\n", 5, "'training.epochs'"),
        (SMALL + "audit:\n  rate: 1.5\n", 6, "'audit.rate'"),
        (SMALL.replace("name: reviews", "name: Reviews!"), 1, "'name'"),
        (SMALL.replace("labels: [bad, good]\n", ""), 1, "'labels': is missing"),
        (SMALL.replace("[bad, good]", "[bad, bad]"), 2, "'labels': must differ"),
        (SMALL.replace("[bad, good]", "[bad, '']"), 2, "a label must not be empty"),
        (SMALL.replace("[bad, good]", "[bad, 3]"), 2, "'labels.1'"),
        (SMALL + "drift: {window: 100, minimum: 200}\n", 1, "drift.minimum must not exceed"),
        (SMALL.replace("{files: [data.csv]}", "{files: [d.csv], validation: 0.5, test: 0.5}"), 1, "nothing to train"),
        (SMALL + "input: image\nserving: much\n", 6, "'serving'"),
        (SMALL + "input: sound\n", 5, "'input'"),
        (SMALL + "value: {errors: {bad: {fair: 1}}}\n", 5, "'value': errors: unknown label 'fair'"),
        (SMALL + "value: {errors: {bad: {bad: 1}}}\n", 5, "'value': errors: 'bad' for 'bad' is no error"),
        (SMALL + "value: {errors: {bad: {good: -1}}}\n", 5, "'value.errors.bad.good'"),
        (SMALL + "range: {minimum: 0}\n", 5, "'range': is of a regression"),
        (SMALL + "training: {loss: mse}\n", 5, "'training': loss: mse is of a regression"),
        (SMALL + "value: {per_unit: 1}\n", 5, "'value': a classification has errors"),
        (SMALL + "kind: regression\n", 2, "'labels': a regression has none"),
        (NUMBERS + "range: {minimum: 3, maximum: 3}\n", 5, "'range': the minimum must be less"),
        (NUMBERS + "range: {minimum: .nan}\n", 5, "'range': the ends of a range are finite"),
        (NUMBERS + "training: {few_shot: on}\n", 5, "'training': few_shot: on is of a classification"),
        (NUMBERS + "training: {few_shot: 'on'}\n", 5, "'training': few_shot: on is of a classification"),
        (NUMBERS + "training:\n  loss: focal\n", 5, "'training': loss: focal is of a classification"),
        (NUMBERS + "value: {errors: {a: {b: 1}}}\n", 5, "'value': a regression has per_unit"),
        ("- a list\n", 1, "a task file is a mapping"),
        ("", 1, "a task file is a mapping"),
    ],
)
def test_what_does_not_fit_names_the_key_and_the_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Task.load(file)
    assert f"{file}: line {line}: " in caught.value.message
    assert problem in caught.value.message


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Task.load(write(tmp_path, SMALL + "one: 1\ntwo: 2\n"))
    assert "line 5" in caught.value.message
    assert "line 6" in caught.value.message


@pytest.mark.parametrize("content", [b"name: [unclosed", b"\xff\xfe\x00bad", b"a: b: c"])
def test_what_is_not_yaml_says_so(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "task.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"task\.yaml"):
        Task.load(file)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Task.load(tmp_path / "none.yaml")
