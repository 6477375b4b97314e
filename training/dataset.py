"""All of the task's data, read, checked and in its parts; and the same parts again from a version's data card."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from regraft.errors import DataError
from regraft.sections import Data
from regraft.task import Task
from training.checks import Findings, inspect, refuse
from training.data import LIMITS, Parts, data_card, file_hash, read, split_hash
from training.distribution import answers_in, distribution_of
from training.lookalikes import looks_of
from training.split import grouped, split


class Dataset(NamedTuple):
    """Rows in their parts, what was found odd about them, and the card that says where they came from."""

    parts: Parts
    findings: list[str]
    card: dict[str, Any]
    weights: Mapping[str, float] = MappingProxyType({})  # of the rows, by id, that count for more than 1 in training

    def with_more(self, findings: list[str]) -> Self:
        return self._replace(findings=self.findings + findings)


class Examined(NamedTuple):
    parts: Parts
    findings: Findings
    card: dict[str, Any]


def examine(task: Task) -> Examined:
    """Raises DataError only for files that cannot be read; all else that is wrong is in the findings."""
    table = read(task)
    looks = looks_of(table.rows)
    groups = grouped(table.rows, task.data.near_duplicates, looks)
    distribution = distribution_of(task.answers)
    parts = split(groups.groups, task.data, distribution.strata)
    return Examined(parts, inspect(task, table, groups, parts, looks), data_card(task, table, parts, distribution))


def read_dataset(task: Task) -> Dataset:
    """The task's data, checked and split. Raises DataError where it cannot be trained on."""
    examined = examine(task)
    refuse(examined.findings)
    return Dataset(examined.parts, examined.findings.lines(), examined.card)


def split_again(card: dict[str, Any], task: Task) -> Parts:
    """The parts that `card` was written for, bit for bit, from the task's files.

    Files are known by their hash, wherever they lie and whatever the task says by now about how to split them. Reviewed
    predictions that a retraining added are in no file; rows.parquet of the version names them. Raises DataError when a
    file is not there as it was, or the parts do not come out the same.
    """
    there = {file_hash(Path(name)): name for name in task.data.files}
    if gone := [file["name"] for file in card["files"] if file["sha256"] not in there]:
        raise DataError(f"not there, or changed since the card was written: {', '.join(gone)}")
    files = tuple(there[file["sha256"]] for file in card["files"])
    serving = task.serving.model_copy(update={name: card[name] for name in LIMITS if name in card})
    data = Data.model_validate(card["settings"] | {"files": files})
    answers = answers_in(card)
    then = task.model_copy(update={"data": data, "serving": serving} | answers.as_task())
    rows = read(then).rows
    groups = grouped(rows, data.near_duplicates, looks_of(rows)).groups
    parts = split(groups, data, distribution_of(answers).strata)
    if split_hash(parts) != card.get("files_split_sha256", card["split_sha256"]):
        raise DataError("the parts do not come out as the card says; was it written by another release of Regraft?")
    return parts


def read_card(file: Path) -> dict[str, Any]:
    """Raises DataError for a file that is no data card."""
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    if not isinstance(card, dict) or not {"files", "settings", "split_sha256"} <= card.keys():
        raise DataError(f"{file}: is no data card")
    return card
