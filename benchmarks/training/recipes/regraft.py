"""Regraft: what `regraft train` does until there is a calibrated network, with its defaults; then the test part.

Reports, baselines and exports are left out: nobody else makes any.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `regraft train` does, before torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.recipes.job import Answers, Examples, Job, perform
from regraft.task import Task
from training.backbone import open_backbone
from training.calibrate import fit_temperature
from training.clock import Clock
from training.data import Parts, Row
from training.kinds import preprocessor_of
from training.learning import Source, learn
from training.outputs import over_all


def start(recipe: Callable[[Job], Answers]) -> None:
    """With threads as `regraft train` has them."""
    torch.set_num_interop_threads(1)
    perform(recipe)


def run(job: Job, **settings: Any) -> Answers:
    """With these settings of `training`, and otherwise the defaults."""
    started, clock = time.perf_counter(), Clock()
    source = source_of(job, **settings)
    with tempfile.TemporaryDirectory() as folder:
        learned = learn(source, Path(folder), clock)
        fit_temperature(learned.validated.logits, learned.material.validation.labels.numpy())
        reader = learned.reader
        on_test = over_all(learned.network, reader.hidden("test", source.parts.test), reader.dtype).logits
    curve = learned.progress.curve
    before = sum(seconds for step, seconds in clock.seconds.items() if step != "train")  # of all stages
    whole = time.perf_counter() - started
    return Answers(
        test=on_test.argmax(axis=1).tolist(),
        curve=[point.validation["macro_f1"] for point in curve],
        moments=[(before + point.seconds) / whole for point in curve],
    )


def source_of(job: Job, **settings: Any) -> Source:
    task = task_of(job, **settings)
    card = open_backbone(task.backbone)
    parts = Parts(*(rows_of(part, name) for name, part in zip(Parts._fields, parts_of(job), strict=True)))
    return Source(task, card, preprocessor_of(task, card), parts)


def task_of(job: Job, **settings: Any) -> Task:
    training = settings | {"seed": job.seed} | ({} if job.rate is None else {"learning_rate": job.rate})
    return Task.model_validate(
        {
            "name": "benchmark",
            "input": job.kind,
            "labels": [str(label) for label in range(job.classes)],
            "backbone": {"source": job.backbone},
            "data": {"files": ["given.csv"]},
            "training": training,
            "serving": {"max_tokens": job.max_tokens},
        }
    )


def parts_of(job: Job) -> tuple[Examples, Examples, Examples]:
    return job.train, job.validation, job.test


def rows_of(part: Examples, name: str) -> list[Row]:
    return [
        Row(id=f"{name}-{number}", input=one, label=str(label), place=f"{name}:{number}")
        for number, (one, label) in enumerate(zip(part.inputs, part.labels, strict=True))
    ]


if __name__ == "__main__":
    start(run)
