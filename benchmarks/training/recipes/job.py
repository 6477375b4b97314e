"""What a recipe is given, and what it gives back. Each recipe runs in a process of its own and measures itself.

python -m benchmarks.training.recipes.NAME JOB.json OUTCOME.json
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Examples:
    inputs: list[str]  # texts, or the places of pictures
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Job:
    kind: str  # text or image
    backbone: str  # the folder of the pre-trained weights
    classes: int
    train: Examples
    validation: Examples
    test: Examples
    max_tokens: int
    seed: int
    rate: float | None  # of learning; None: the recipe's own
    threads: int

    @classmethod
    def read(cls, file: Path) -> "Job":
        values = json.loads(file.read_text())
        values |= {name: Examples(**values[name]) for name in ("train", "validation", "test")}
        return cls(**values)

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Answers:
    """The label that the trained network gives each row; `curve` is macro F1 on validation each time that it was looked
    at, `moments` how much of all the time was over by then."""

    test: list[int]
    curve: list[float]
    moments: list[float]  # shares of the whole, from 0 to 1; empty where nobody looked at the clock


@dataclass(frozen=True)
class Outcome:
    answers: Answers
    seconds: float
    cpu_seconds: float


def perform(recipe: Callable[[Job], Answers]) -> None:
    """The clock runs from labelled rows and a folder of weights to answers on the test part; imports come before."""
    job = Job.read(Path(sys.argv[1]))
    torch.set_num_threads(job.threads)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = recipe(job)
    outcome = Outcome(answers, time.perf_counter() - wall, time.process_time() - cpu)
    Path(sys.argv[2]).write_text(json.dumps(asdict(outcome)))


def outcome_in(file: Path) -> Outcome:
    values = json.loads(file.read_text())
    return Outcome(Answers(**values["answers"]), values["seconds"], values["cpu_seconds"])
