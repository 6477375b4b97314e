"""The data sets, in the parts that everybody gets, and the backbones."""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.training.recipes.job import Examples, Job
from regraft.task import Task
from training.data import Row, Table, read
from training.lookalikes import Looks, looks_of
from training.split import grouped, split

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache" / "training"
REVIEWS = ROOT / "examples" / "reviews" / "data"
FASHION = ROOT / "examples" / "fashion"
SENTIMENTS = ["negative", "neutral", "positive"]
THREADS = 2


@dataclass(frozen=True)
class DataSet:
    name: str
    kind: str
    files: tuple[str, ...]
    rows: int | None = None  # None: all

    def few(self, rows: int) -> "DataSet":
        """A random part of it, under a name of its own."""
        return DataSet(f"{self.name}/{rows}", self.kind, self.files, rows)


AMAZON = DataSet("amazon", "text", ("amazon.csv", "amazon_live.csv"))
TWEETS = DataSet("tweets", "text", ("tweets.csv", "tweets_unseen.csv"))
FILMS = DataSet("films", "text", ("films.csv",))
PICTURES = DataSet("fashion", "image", ())
DATA = {one.name: one for one in (AMAZON, TWEETS, FILMS, PICTURES)}


def job_of(data: DataSet, seed: int, rate: float | None) -> Job:
    """The seed parts the rows as well: what is compared, is compared on the same parts."""
    task, (table, looks) = task_of(data), read_once(data)
    settings = task.data.model_copy(update={"seed": seed})
    rows = random.Random(0).sample(table.rows, data.rows) if data.rows else table.rows
    parts = split(grouped(rows, settings.near_duplicates, looks).groups, settings)
    return Job(
        kind=data.kind,
        backbone=task.backbone.source,
        classes=len(task.labels),
        train=examples_of(parts.train, task),
        validation=examples_of(parts.validation, task),
        test=examples_of(parts.test, task),
        max_tokens=task.serving.max_tokens,
        seed=seed,
        rate=rate,
        threads=THREADS,
    )


@cache
def read_once(data: DataSet) -> tuple[Table, Looks]:
    table = read(task_of(data))
    return table, looks_of(table.rows)


def task_of(data: DataSet) -> Task:
    if data.kind == "image":
        return Task.load(FASHION / "task.yaml")
    return Task.model_validate(
        {
            "name": "benchmark",
            "labels": SENTIMENTS,
            "backbone": {"source": str(REVIEWS / "minilm")},
            "data": {"files": [str(REVIEWS / file) for file in data.files], "columns": {"id": "id"}},
        }
    )


def examples_of(rows: list[Row], task: Task) -> Examples:
    return Examples([row.input for row in rows], [task.labels.index(row.label) for row in rows])
