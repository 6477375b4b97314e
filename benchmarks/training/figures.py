"""What is reckoned with the rows: how many times as long others take, and how much better we are, with intervals."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from regraft.versions import Metric
from training.evaluate import compare

OURS, WATCHED, SCRATCH = "regraft", "regraft, watched", "from scratch"
RESAMPLES = 2_000


@dataclass(frozen=True)
class Row:
    """One run. `seconds` and `cpu_seconds` are of this run alone, at the rate that was chosen before."""

    recipe: str
    data: str
    seed: int
    seconds: float
    accuracy: float  # on the test part
    macro_f1: float
    cpu_seconds: float
    validation_macro_f1: float
    rate: float | None
    curve: list[float]  # macro F1 on validation as it went
    moments: list[float]  # how much of all the time was over by then
    truth: list[int]  # of the test part
    answers: list[int]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.recipe, self.data, self.seed


@dataclass(frozen=True)
class Against:
    """Ours beside another recipe, on the seeds that both were run with."""

    recipe: str
    data: str
    seeds: tuple[int, ...]
    times: list[float]  # as much wall-clock as ours, for each seed
    cpu_times: list[float]
    accuracy: Metric  # ours minus theirs; the interval is over the test rows of all seeds
    macro_f1: Metric
    accuracy_over_seeds: tuple[float, float] | None  # Student's interval; None with one seed
    macro_f1_over_seeds: tuple[float, float] | None

    @classmethod
    def of(cls, ours: Sequence[Row], theirs: Sequence[Row]) -> "Against":
        """Of pairs of rows, with the same seeds."""
        truth, first, second = (
            np.array([label for row in rows for label in getattr(row, name)], dtype=np.int64)
            for rows, name in ((ours, "truth"), (ours, "answers"), (theirs, "answers"))
        )
        labels = [str(label) for label in range(int(np.max(truth)) + 1)]
        found = compare(truth, first, second, labels, resamples=RESAMPLES, seed=0)
        pairs = [*zip(ours, theirs, strict=True)]
        return cls(
            recipe=theirs[0].recipe,
            data=theirs[0].data,
            seeds=tuple(row.seed for row in theirs),
            times=[other.seconds / our.seconds for our, other in pairs],
            cpu_times=[other.cpu_seconds / our.cpu_seconds for our, other in pairs],
            accuracy=found["accuracy"],
            macro_f1=found["macro_f1"],
            accuracy_over_seeds=over_seeds([our.accuracy - other.accuracy for our, other in pairs]),
            macro_f1_over_seeds=over_seeds([our.macro_f1 - other.macro_f1 for our, other in pairs]),
        )


def over_seeds(differences: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95% interval of the mean; None where there is but one.

    >>> over_seeds([0.01]) is None
    True
    """
    if len(differences) < 2:
        return None
    middle, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return middle - reach, middle + reach


def against(rows: Sequence[Row]) -> list[Against]:
    """Every other recipe on every data set, where there are rows of ours to hold it against."""
    ours = {(row.data, row.seed): row for row in rows if row.recipe == OURS}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.recipe not in {OURS, WATCHED, SCRATCH} and (row.data, row.seed) in ours:
            groups.setdefault((row.data, row.recipe), []).append(row)
    return [Against.of([ours[row.data, row.seed] for row in theirs], theirs) for theirs in groups.values()]


def show(rows: Sequence[Row]) -> Iterator[str]:
    """Means over the seeds, in Markdown."""
    yield "| data | recipe | rate | seeds | seconds | processor | accuracy | macro F1 |"
    yield "|---|---|--:|---|--:|--:|--:|--:|"
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.data):
        groups.setdefault((row.data, row.recipe), []).append(row)
    for (data, recipe), group in groups.items():
        rate = "" if group[0].rate is None else f"{group[0].rate:g}"
        means = (_mean(group, name) for name in ("seconds", "cpu_seconds", "accuracy", "macro_f1"))
        cells = [f"{one:{form}}" for one, form in zip(means, (".1f", ".1f", ".3f", ".3f"), strict=True)]
        seeds = ",".join(str(row.seed) for row in group)
        yield f"| {' | '.join([data, recipe, rate, seeds, *cells])} |"


def show_against(rows: Sequence[Row]) -> Iterator[str]:
    yield "| ours against | on | seeds | times as long | times the processor | accuracy gained | macro F1 gained |"
    yield "|---|---|---|--:|--:|--:|--:|"
    for one in against(rows):
        seeds = ",".join(map(str, one.seeds))
        gains = (_gain(one.accuracy, one.accuracy_over_seeds), _gain(one.macro_f1, one.macro_f1_over_seeds))
        cells = [one.recipe, one.data, seeds, _times(one.times), _times(one.cpu_times), *gains]
        yield f"| {' | '.join(cells)} |"


def reached(row: Row, macro_f1: float) -> float | None:
    """Seconds of a processor until validation first showed this; None where it never did."""
    pairs = zip(row.curve, row.moments, strict=True)
    return next((moment * row.cpu_seconds for found, moment in pairs if found >= macro_f1), None)


def show_scratch(rows: Sequence[Row]) -> Iterator[str]:
    """Our recipe beside the same network from scratch, by when each came to the best that scratch came to."""
    yield "| data | seed | best macro F1 from scratch | seconds of a processor | ours | share |"
    yield "|---|--:|--:|--:|--:|--:|"
    ours = {(row.data, row.seed): row for row in rows if row.recipe == WATCHED}
    for row in rows:
        if row.recipe == SCRATCH and (our := ours.get((row.data, row.seed))):
            best = max(row.curve)
            theirs, mine = reached(row, best) or row.cpu_seconds, reached(our, best)
            cells = ["never", ""] if mine is None else [f"{mine:.0f}", f"{mine / theirs:.1%}"]
            yield f"| {' | '.join([row.data, str(row.seed), f'{best:.3f}', f'{theirs:.0f}', *cells])} |"


def _times(values: Sequence[float]) -> str:
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _gain(metric: Metric, seeds: tuple[float, float] | None) -> str:
    over = "" if seeds is None else f"; over seeds {seeds[0]:+.3f} to {seeds[1]:+.3f}"
    return f"{metric.value:+.3f} ({metric.low:+.3f} to {metric.high:+.3f}{over})"


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([getattr(row, name) for row in rows]))
