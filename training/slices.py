"""Where a version fails more than elsewhere: accuracy, or the mean error, on parts of the test rows that can be named.

rows -> conditions (which value each row has) -> slices -> is it worse than the rest? -> which of them chance does
not explain, all looked at together
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from scipy.stats import hypergeom, mannwhitneyu
from scipy.stats import t as student

from regraft.preprocessing import describe_image, descriptors
from regraft.versions import Metric

ALPHA = 0.05  # chance of naming any slice where nothing is wrong
FEWEST = 10  # rows in a slice, and outside it
MOST = 20  # slices of one condition, the largest
PARTS = 4  # of a condition that is a number
Z = 1.96  # of 95%
SHOUTED = 0.2  # share of capitals

Flags = NDArray[np.bool_]
Reals = NDArray[np.float64]


class Condition(NamedTuple):
    """One way to part rows: the name of each value, and which of them each row has."""

    name: str
    values: Sequence[str]
    places: NDArray[np.int64]  # (rows,); -1 where a row has none of the values


class Slice(BaseModel):
    """`p_value` is adjusted for all slices that were looked at; where it is below ALPHA the slice `fails`."""

    model_config = ConfigDict(frozen=True)

    condition: str
    value: str
    rows: int
    figure: Metric = Field(validation_alias=AliasChoices("figure", "accuracy"))  # accuracy, or the mean absolute error
    elsewhere: float  # of all other rows
    p_value: float
    fails: bool


class Looked(NamedTuple):
    """What is seen of the rows of one slice, and the chance of seeing them as bad as that where all rows are alike."""

    figure: Metric
    elsewhere: float
    p_value: float


Look = Callable[[Flags], Looked]  # at the rows that are inside


def by_rate(right: Flags) -> Look:
    """Of rows that were answered rightly, or not. By Fisher's exact test, one-sided: given how many answers are wrong
    at all, how often would chance put as many of them into this slice?"""

    def look(inside: Flags) -> Looked:
        found, rows = int(right[inside].sum()), int(inside.sum())
        p_value = float(hypergeom.cdf(found, len(right), right.sum(), rows))
        return Looked(proportion(found, rows), float(right[~inside].mean()), p_value)

    return look


def by_size_of(errors: Reals) -> Look:
    """Of rows that are so far off. By ranks (Mann & Whitney 1947), one-sided, so that single large errors do not
    decide; where the mean is no larger than elsewhere the slice is no worse, whatever its ranks. The interval of a
    slice's mean is Student's."""

    def look(inside: Flags) -> Looked:
        here, others = errors[inside], errors[~inside]
        half = float(student.ppf(0.975, len(here) - 1)) * float(here.std(ddof=1)) / np.sqrt(len(here))
        middle, elsewhere = float(here.mean()), float(others.mean())
        mean = Metric(value=middle, low=max(0.0, middle - half), high=middle + half)
        p_value = float(mannwhitneyu(here, others, alternative="greater").pvalue) if middle > elsewhere else 1.0
        return Looked(mean, elsewhere, p_value)

    return look


def measure(look: Look, conditions: Sequence[Condition]) -> list[Slice]:
    """Every slice that is large enough.

    Over slices by Holm 1979, "A simple sequentially rejective multiple test procedure": the chance of naming any slice
    wrongly is at most ALPHA, however slices overlap.
    """
    found = [
        (condition.name, value, inside)
        for condition in conditions
        for place, value in enumerate(condition.values)
        if FEWEST <= (inside := condition.places == place).sum() <= len(inside) - FEWEST
    ]
    seen = [look(inside) for _, _, inside in found]
    adjusted = holm([one.p_value for one in seen])
    return [
        Slice(
            condition=condition,
            value=value,
            rows=int(inside.sum()),
            figure=one.figure,
            elsewhere=one.elsewhere,
            p_value=p_value,
            fails=p_value < ALPHA,
        )
        for (condition, value, inside), one, p_value in zip(found, seen, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the k-th smallest of m times m - k + 1, never less than one before it, at most 1."""
    adjusted = np.zeros(len(p_values))
    largest = 0.0
    for done, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (len(p_values) - done) * p_values[place])
        adjusted[place] = min(1.0, largest)
    found: list[float] = adjusted.tolist()
    return found


def proportion(right: int, rows: int) -> Metric:
    """With the interval of Wilson 1927: on few rows, and where all are right, a bootstrap's is too short."""
    share, extra = right / rows, Z**2 / rows
    middle = (share + extra / 2) / (1 + extra)
    half = Z / (1 + extra) * np.sqrt(share * (1 - share) / rows + extra / (4 * rows))
    return Metric(value=float(share), low=max(0.0, float(middle - half)), high=min(1.0, float(middle + half)))


def by_value(name: str, values: Sequence[str | None]) -> Condition:
    """The most frequent values, most frequent first."""
    frequent = [value for value, _ in Counter(value for value in values if value).most_common(MOST)]
    places = {value: place for place, value in enumerate(frequent)}
    return Condition(name, frequent, np.array([places.get(value or "", -1) for value in values]))


def by_size(name: str, sizes: Sequence[float], say: Callable[[float], str] = "{:,.0f}".format) -> Condition:
    """PARTS ranges that hold about as many rows each; fewer where many rows have one size."""
    values = np.asarray(sizes, dtype=np.float64)
    inner = np.linspace(0, 1, PARTS + 1)[1:-1]
    edges = np.unique(np.quantile(values, inner, method="higher"))
    found, places = np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)
    ends = [(say(values[places == place].min()), say(values[places == place].max())) for place in range(len(found))]
    return Condition(name, [low if low == high else f"{low} to {high}" for low, high in ends], places)


def by_time(times: Sequence[str | None]) -> Condition:
    """PARTS periods that hold about as many rows each, of ISO 8601 times in one zone: their order is that of time."""
    order = sorted({time for time in times if time})
    ranks = {time: rank for rank, time in enumerate(order)}
    dated = [ranks[time] for time in times if time]
    if not dated:
        return Condition("time", [], np.full(len(times), -1))
    periods = by_size("time", dated, lambda rank: order[int(rank)][:10])
    places = np.full(len(times), -1)
    places[[bool(time) for time in times]] = periods.places
    return Condition("time", periods.values, places)


def of_texts(texts: Sequence[str]) -> list[Condition]:
    """Length, and what a text has about it that others may not."""
    described = [descriptors(text) for text in texts]
    traits = {
        "digits": [one["digit_share"] > 0 for one in described],
        "many capitals": [one["upper_share"] > SHOUTED for one in described],
        "letters beyond ASCII": [one["non_ascii_share"] > 0 for one in described],
        "a question mark": ["?" in text for text in texts],
        "an exclamation mark": ["!" in text for text in texts],
    }
    length = by_size("words", [one["words"] for one in described])
    return [length, *(by_value(name, ["with" if one else "without" for one in has]) for name, has in traits.items())]


def of_images(contents: Sequence[bytes]) -> list[Condition]:
    """Quality and size of encoded images."""
    described = [describe_image(content) for content in contents]
    shown = {"brightness": "{:.2f}", "contrast": "{:.2f}", "sharpness": "{:.3f}", "aspect": "{:.2f}"}
    sizes = [one["width"] * one["height"] for one in described]
    return [
        *(by_size(name, [one[name] for one in described], form.format) for name, form in shown.items()),
        by_size("pixels", sizes),
    ]
