import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from regraft.errors import ConfigError
from regraft.eventlog import Record
from regraft.history import History
from regraft.task import Task
from tests.training.conftest import examples, write_task
from tests.training.test_conditions import prediction
from training.backbone import open_backbone, open_tokenizer
from training.checkup import check_up, remarks
from training.data import Parts, Row
from training.domain import text_shift


@pytest.fixture
def tokenizer(task: Task) -> bytes:
    return open_tokenizer(open_backbone(task.backbone))


def test_texts_in_the_backbones_words_are_no_shift(tokenizer: bytes) -> None:
    shift = text_shift([text for _, text, _ in examples(100)], tokenizer, 32)
    assert (shift.unknown, shift.pieces, shift.cut) == (0, 1, 0)
    assert shift.notes(32) == []


def test_unknown_words_and_long_texts_are_warned_of(tokenizer: bytes) -> None:
    shift = text_shift(["the box was good", "la boîte était good " * 20, "a b"], tokenizer, 32)
    assert shift.unknown == pytest.approx(61 / 86)
    assert (shift.cut, shift.longest) == (1 / 3, 82)
    unknown, cut = shift.notes(32)
    assert unknown.startswith("70.9% of the tokens are unknown to the backbone")
    assert cut == "33.3% of the texts are longer than 32 tokens and cut there; the longest has 82"


def test_a_vocabulary_of_bytes_knows_everything_in_many_pieces() -> None:
    letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(letters, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    shift = text_shift(["häuser"], made.to_str().encode(), 32)
    assert (shift.unknown, shift.pieces) == (0, 7)
    assert "breaks each word into 7.0 pieces" in shift.notes(32)[0]


def test_of_nothing_nothing_can_be_said(tokenizer: bytes) -> None:
    with pytest.raises(ValueError, match="there are no texts"):
        text_shift([], tokenizer, 32)


def test_the_check_up_says_what_differs_from_production_and_from_the_backbone(tmp_path: Path, backbone: Path) -> None:
    rows = [
        {"text": f"étrange {text}", "label": label, "shop": "web", "month": 5} for _, text, label in examples(300)
    ]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"files": ["data.jsonl"], "columns": {"conditions": ["shop", "month"]}}
    task = Task.load(write_task(tmp_path, backbone, [], data=data))
    history = History(str(tmp_path / "history"))
    history.write([Record("log", place, prediction({"shop": "phone"})) for place in range(1, 100)])
    notes = "\n".join(check_up(task, str(tmp_path / "history")).notes)
    assert "production says nothing of the condition 'month' yet" in notes
    assert (
        "2 conditions are not as frequent as in production:\n  shop 'phone': 0.0% of the training data, 100.0%" in notes
    )
    assert "of the tokens are unknown to the backbone" in notes


def test_the_report_says_so_too_and_of_reviewed_rows_what_their_callers_said(tmp_path: Path, backbone: Path) -> None:
    data = {"files": ["data.csv"], "columns": {"conditions": ["shop"]}}
    task = Task.load(write_task(tmp_path, backbone, examples(30), data=data))
    history = History(str(tmp_path / "history"))
    history.write([Record("log", place, prediction({"shop": "phone"})) for place in range(1, 100)])
    given = [Row(str(place), f"étrange {place}", "positive", "", conditions={"shop": "web"}) for place in range(90)]
    reviewed = [Row("r1", "a", "positive", "", conditions={"shop": "phone"}), Row("r2", "b", "negative", "")]
    said = remarks(task, Parts([*given, *reviewed], [], []), str(tmp_path / "history"))
    assert any(line.startswith("  shop 'phone': 1.1% of the training data, 100.0% of production") for line in said)
    assert any("of the tokens are unknown to the backbone" in line for line in said)


def test_the_check_up_looks_at_rows_from_the_first_to_the_last(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"{number:03}", text if number < 150 else f"étrange {text}", label) for number, (_, text, label) in enumerate(examples(300))]  # fmt: skip  # noqa: E501
    task = Task.load(write_task(tmp_path, backbone, rows))
    monkeypatch.setattr("training.checkup.TEXTS", 20)
    assert "of the tokens are unknown to the backbone" in "\n".join(check_up(task, str(tmp_path / "history")).notes)


def test_a_backbone_that_cannot_be_used_is_an_error_beside_the_others(tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path, tmp_path, [("1", "a", "positive")]))
    errors = check_up(task, str(tmp_path / "history")).errors
    with pytest.raises(ConfigError) as refused:
        open_backbone(task.backbone)
    assert errors[-1] == str(refused.value)
    assert len(errors) > 1
