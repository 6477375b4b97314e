"""Everything that can be said before anything is trained: of the data, of production, and of the backbone.

task -> findings of the data -> + conditions that differ from production's -> + the backbone, and how far the data is
from what it knows
"""

from regraft.errors import ConfigError
from regraft.history import History
from regraft.task import Task
from training.backbone import BackboneCard, open_backbone, open_preprocessor, open_tokenizer
from training.checks import Findings, cut
from training.conditions import in_production, in_training, shifts
from training.data import Parts, Row, spread
from training.dataset import examine
from training.domain import IMAGES, TEXTS, image_shift, text_shift
from training.pictures import open_image_files, read_image


def check_up(task: Task, history: str) -> Findings:
    """`history` is where production's predictions are kept. Raises DataError for files that cannot be read."""
    parts, findings, _ = examine(task)
    findings.notes.extend(_conditions(task, parts, history))
    try:
        card = open_backbone(task.backbone)
        findings.notes.extend(card.lines() + _domain(task, card, parts.train))
    except ConfigError as error:
        findings.errors.append(str(error))
    return findings


def remarks(task: Task, parts: Parts, history: str) -> list[str]:
    """How the rows differ from production's and from what the backbone knows, for the report. Raises ConfigError."""
    return _conditions(task, parts, history) + _domain(task, open_backbone(task.backbone), parts.train)


def _conditions(task: Task, parts: Parts, history: str) -> list[str]:
    names = task.data.columns.conditions
    if not names:
        return []
    production = in_production(History(history), names)
    notes = [f"production says nothing of the condition '{name}' yet" for name in names if not production[name]]
    found = shifts(in_training([row for part in parts for row in part], names), production)
    return notes + cut(f"{len(found)} conditions are not as frequent as in production", [str(one) for one in found])


def _domain(task: Task, card: BackboneCard, train: list[Row]) -> list[str]:
    if not train:
        return []
    if task.input == "image":
        spec = open_image_files(card.folder, task.serving.max_pixels, task.backbone).spec
        return image_shift((read_image(row.input) for row in spread(train, IMAGES)), spec).notes()
    limit = open_preprocessor(task, card).spec.max_tokens
    shift = text_shift([row.input for row in spread(train, TEXTS)], open_tokenizer(card), limit)
    return shift.notes(limit)
