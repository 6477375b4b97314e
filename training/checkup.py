"""Everything that can be said before anything is trained: of the data, of production, and of the backbone.

task -> findings of the data -> + conditions that differ from production's -> + the backbone, and how far the data is
from what it knows
"""

from regraft.errors import ConfigError
from regraft.history import History
from regraft.task import Task
from training.backbone import open_backbone, open_preprocessor, open_tokenizer
from training.checks import Findings, cut
from training.conditions import in_production, in_training, shifts
from training.data import Row, spread
from training.dataset import examine
from training.domain import IMAGES, TEXTS, image_shift, text_shift
from training.pictures import open_image_files, read_image


def check_up(task: Task, history: str) -> Findings:
    """`history` is where production's predictions are kept. Raises DataError for files that cannot be read."""
    parts, findings, _ = examine(task)
    findings.notes.extend(_conditions(task, [*parts.train, *parts.validation, *parts.test], history))
    try:
        findings.notes.extend(_backbone(task, parts.train))
    except ConfigError as error:
        findings.errors.append(str(error))
    return findings


def _conditions(task: Task, rows: list[Row], history: str) -> list[str]:
    names = task.data.columns.conditions
    if not names:
        return []
    production = in_production(History(history), names)
    notes = [f"production says nothing of the condition '{name}' yet" for name in names if not production[name]]
    found = shifts(in_training(rows, names), production)
    return notes + cut(f"{len(found)} conditions are not as frequent as in production", [str(one) for one in found])


def _backbone(task: Task, train: list[Row]) -> list[str]:
    card = open_backbone(task.backbone)
    if not train:
        return card.lines()
    if task.input == "image":
        spec = open_image_files(card.folder, task.serving.max_pixels, task.backbone).spec
        return card.lines() + image_shift((read_image(row.input) for row in spread(train, IMAGES)), spec).notes()
    limit = open_preprocessor(task, card).spec.max_tokens
    shift = text_shift([row.input for row in spread(train, TEXTS)], open_tokenizer(card), limit)
    return card.lines() + shift.notes(limit)
