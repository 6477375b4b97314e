"""All that is measured of a version beyond what its manifest says, kept beside it in proof.json for the report.

test rows and answers -> calibration, slices, robustness, worst answers, worth
artifacts -> time and memory of a request
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from regraft.errors import VersionRefused
from regraft.preprocessing import load_preprocessor
from regraft.preprocessing.image import decode
from regraft.task import Task
from training import calibrate, footprint, robustness, slices, value
from training.data import Row
from training.intervals import Held
from training.pictures import read_image
from training.progress import Point
from training.runtime import Scorer
from training.targets import Calibrated, Target
from training.whole import Course

FILE = "proof.json"
WORST = 15
THUMBNAIL = 160  # pixels of the longer side


class Mistake(BaseModel):
    """A wrong answer, or one that is far off. `id` and `place` say where the row came from."""

    model_config = ConfigDict(frozen=True)

    id: str
    place: str
    input: str
    truth: str
    answer: str
    confidence: float
    picture: str | None = None  # of an image: a small copy, as a data URI


class Proof(BaseModel):
    model_config = ConfigDict(frozen=True)

    confusion: list[list[int]] = []  # (labels, labels) of the test part, rows are the truth
    calibration: calibrate.Calibrated | None = None  # of labels
    pairs: list[tuple[float, float]] = []  # truth and answer of test rows
    intervals: Held | None = None  # of numbers
    slices: list[slices.Slice]
    robustness: list[robustness.Curve]
    mistakes: list[Mistake]
    worth: value.Worth | None
    footprints: dict[str, footprint.Footprint]  # by precision
    peak_bytes: int  # of the process that trained
    findings: list[str]
    curve: list[dict[str, Any]]  # validations, in order
    at_once: Course | None = None  # all layers from the backbone on, without stages
    scratch: Course | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises VersionRefused for a version that was made before there were proofs, or whose proof is damaged."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except FileNotFoundError as error:
            raise VersionRefused(f"{folder.name} has no {FILE}: it was made by an older Regraft") from error
        except ValidationError as error:
            raise VersionRefused(f"{FILE} of {folder.name} cannot be read") from error

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")


class Tested(NamedTuple):
    """The test part and what the version answered."""

    rows: Sequence[Row]
    truth: NDArray[Any]  # (rows,)
    columns: NDArray[np.float32]  # (rows, columns)
    target: Target
    calibrated: Calibrated


class Inputs(Sequence[Any]):
    """Texts, or the contents of image files, each read when it is looked at, as memory may not hold them all."""

    def __init__(self, rows: Sequence[Row], read: Callable[[str], Any]) -> None:
        self._rows, self._read = rows, read

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._rows[index].input)


class Kind(NamedTuple):
    """How rows of one kind of input are looked at."""

    read: Callable[[str], Any]
    conditions: Callable[[Sequence[Any]], list[slices.Condition]]
    changes: Callable[[Any], Mapping[str, Sequence[robustness.Severity]]]  # given the preprocessor

    def inputs(self, rows: Sequence[Row]) -> Inputs:
        return Inputs(rows, self.read)


KINDS = {
    "text": Kind(str, slices.of_texts, lambda _: robustness.OF_TEXTS),
    "image": Kind(read_image, slices.of_images, robustness.of_files),
}


def prove(
    task: Task,
    folder: Path,
    tested: Tested,
    others: Mapping[str, NDArray[Any]],
    artifacts: Mapping[str, str],
    serves: str,
    findings: Sequence[str],
    curve: Sequence[Point],
    *,
    at_once: Course | None = None,
    scratch: Course | None = None,
) -> Proof:
    """`others` are the answers of what it is compared with; `artifacts` the files that were kept, by precision, one of
    which `serves`."""
    options = {"resamples": task.training.bootstrap, "seed": task.data.seed}
    target, truth, kind = tested.target, tested.truth, KINDS[task.input]
    answers, inputs = target.read(tested.columns), kind.inputs(tested.rows)
    preprocessor = load_preprocessor(folder)
    scorer = Scorer(folder / artifacts[serves], preprocessor)
    return Proof(
        **target.believed(tested.columns, truth, tested.calibrated, **options),
        slices=slices.measure(target.look(truth, answers), [*conditions(tested.rows), *kind.conditions(inputs)]),
        robustness=robustness.measure(
            inputs,
            truth,
            lambda changed: target.read(scorer.answers(changed)),
            target,
            kind.changes(preprocessor),
            most=task.report.robustness_rows,
            **options,
        ),
        mistakes=mistakes(task, tested),
        worth=value.worth(task.value, truth, answers, others, target, **options) if task.value else None,
        footprints={name: footprint.measure(folder, file) for name, file in artifacts.items()},
        peak_bytes=footprint.peak_bytes(),
        findings=list(findings),
        curve=[point.flat() for point in curve],
        at_once=at_once,
        scratch=scratch,
    )


def conditions(rows: Sequence[Row]) -> list[slices.Condition]:
    """Ways to part the rows by what the data says of them."""
    named = dict.fromkeys(name for row in rows for name in row.conditions)
    return [
        *(slices.by_value(name, [row.conditions.get(name) for row in rows]) for name in named),
        slices.by_value("group", [row.group for row in rows]),
        slices.by_time([row.time for row in rows]),
    ]


def mistakes(task: Task, tested: Tested) -> list[Mistake]:
    """The worst answers."""
    return [
        Mistake(
            id=tested.rows[one.row].id,
            place=tested.rows[one.row].place,
            input=tested.rows[one.row].input,
            truth=one.truth,
            answer=one.answer,
            confidence=one.confidence,
            picture=thumbnail(read_image(tested.rows[one.row].input)) if task.input == "image" else None,
        )
        for one in tested.target.worst(tested.truth, tested.columns)[:WORST]
    ]


def thumbnail(content: bytes) -> str:
    """A small copy of an encoded image, as a data URI."""
    small = decode(content, 3, THUMBNAIL)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
