"""How the labels of a data set are spread, be they names or numbers: what the split, the card and the findings ask.

labels -> strata (what each part should hold its share of), a summary, what is odd about them
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from regraft.answers import Answers, Labels, Numbers
from training import suspects
from training.data import Parts, Row
from training.lookalikes import Looks

IMBALANCE = 10.0
STRATA = 10  # of numbers; each holds as many rows
FEWEST_IN_STRATUM = 5
APART = 1.0  # deviations between the labels of one input, above which they contradict each other
HEAVY = 0.5  # of all rows with the very same number
STEP = 2.0**-23  # from a float32 to the next, as a share of it, at most: it has 24 bits


Contradicts = Callable[[Sequence[str]], bool]


class Distribution(Protocol):
    def strata(self, labels: Sequence[str]) -> list[str]:
        """One for each label; they are to be as frequent in each part as in all."""

    def card(self, labels: Sequence[str]) -> dict[str, Any]:
        """For the data card, with all that is needed to read the same files again."""

    def counts(self, labels: Sequence[str]) -> dict[str, Any]:
        """In few figures."""

    def in_words(self, labels: Sequence[str]) -> str: ...

    def contradiction(self, labels: Sequence[str]) -> Contradicts:
        """Whether the labels that one input was given contradict each other, among all these."""

    def errors(self, labels: Sequence[str], tolerance: float) -> list[str]:
        """Why nothing can be learned of them, or not be answered as exactly as `tolerance`, that of the export."""

    def notes(self, labels: Sequence[str], parts: Parts) -> list[str]: ...

    def advice(self) -> str:
        """What to do where there are few rows."""

    def suspects(self, rows: Sequence[Row], *, seed: int, looks: Looks | None) -> list[str]: ...


class OfLabels(NamedTuple):
    names: tuple[str, ...]

    def strata(self, labels: Sequence[str]) -> list[str]:
        return list(labels)

    def card(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"labels": self.counts(labels)}

    def counts(self, labels: Sequence[str]) -> dict[str, Any]:
        found = Counter(labels)
        return {name: found[name] for name in self.names}

    def in_words(self, labels: Sequence[str]) -> str:
        return ", ".join(f"{count} {label}" for label, count in self.counts(labels).items())

    def contradiction(self, labels: Sequence[str]) -> Contradicts:
        del labels
        return lambda of_one_input: len(set(of_one_input)) > 1

    def errors(self, labels: Sequence[str], tolerance: float) -> list[str]:
        del tolerance
        rare = [label for label, count in self.counts(labels).items() if count < 2]
        return (
            [f"fewer than 2 rows of label {', '.join(map(repr, rare))}: nothing can be learned of it"] if rare else []
        )

    def notes(self, labels: Sequence[str], parts: Parts) -> list[str]:
        return [*self._imbalance(self.counts(labels)), *self._absent(parts)]

    def advice(self) -> str:
        return "label more, join rare labels, or use contrastive few-shot training"

    def suspects(self, rows: Sequence[Row], *, seed: int, looks: Looks | None) -> list[str]:
        return [str(one) for one in suspects.suspects(rows, seed=seed, looks=looks)]

    def _imbalance(self, counts: Mapping[str, int]) -> list[str]:
        rare, common = min(counts, key=lambda k: counts[k]), max(counts, key=lambda k: counts[k])
        if counts[common] == 0 or counts[common] < IMBALANCE * counts[rare]:
            return []
        said = (
            f"imbalance: {common!r} is {counts[common] / max(counts[rare], 1):.0f} times as frequent as {rare!r};"
            " look at macro F1 and at each label's recall, not at accuracy"
        )
        return [said]

    def _absent(self, parts: Parts) -> list[str]:
        """Labels that a split by time, by large groups or by hand leaves out of a part."""
        absent = []
        for name, part in parts._asdict().items():
            if missing := [label for label in self.names if label not in {row.label for row in part}]:
                absent.append(f"no row of label {', '.join(map(repr, missing))} in the {name} part")
        return absent


class OfNumbers(NamedTuple):
    allowed: Numbers

    def strata(self, labels: Sequence[str]) -> list[str]:
        """Quantiles, fewer where there are few rows, or where many have one value."""
        values = _values(labels)
        strata = max(1, min(STRATA, len(values) // FEWEST_IN_STRATUM))
        if strata == 1:
            return ["all"] * len(values)
        edges = np.unique(np.quantile(values, np.linspace(0, 1, strata + 1)[1:-1]))
        return [str(place) for place in np.searchsorted(edges, values, side="left")]

    def card(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"values": self.counts(labels), "range": self.allowed.model_dump()}

    def counts(self, labels: Sequence[str]) -> dict[str, Any]:
        values = _values(labels)
        if not len(values):
            return {}
        found = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
        quartiles = zip(("least", "quarter", "median", "three_quarters", "most"), found, strict=True)
        return {
            "mean": float(values.mean()),
            "deviation": float(values.std()),
            **{name: float(value) for name, value in quartiles},
        }

    def in_words(self, labels: Sequence[str]) -> str:
        found = self.counts(labels)
        said = "{least:.4g} to {most:.4g}, mean {mean:.4g}, half of them from {quarter:.4g} to {three_quarters:.4g}"
        return said.format(**found) if found else "no numbers"

    def contradiction(self, labels: Sequence[str]) -> Contradicts:
        """Only where they are further apart than all values are on the whole: people seldom agree to the digit."""
        most = APART * float(_values(labels).std()) if labels else 0.0
        return lambda of_one_input: bool(np.ptp(_values(of_one_input)) > most)

    def errors(self, labels: Sequence[str], tolerance: float) -> list[str]:
        """Answers may be two float32 away from where they are computed elsewhere."""
        if len(set(labels)) < 2:
            return ["all rows have the same number, or there are none: nothing can be learned"]
        values = _values(labels)
        deviation, step = float(values.std()), STEP * float(np.abs(values).max())
        if 2 * step <= tolerance * deviation:
            return []
        said = (
            f"the numbers' deviation is {deviation:.3g}, but answers are float32, which goes in steps of {step:.2g} at"
            f" their size: too coarse for an export.tolerance of {tolerance:g}; subtract a constant, such as"
            f" {values.mean():.0f}, from all of them"
        )
        return [said]

    def notes(self, labels: Sequence[str], parts: Parts) -> list[str]:
        del parts
        common = Counter(labels).most_common(1)
        if not common or common[0][1] < HEAVY * len(labels):
            return []
        value, count = common[0]
        return [f"{count} of {len(labels)} numbers are {value}: is it a number at all, or whether it is {value}?"]

    def advice(self) -> str:
        return "label more"

    def suspects(self, rows: Sequence[Row], *, seed: int, looks: Looks | None) -> list[str]:
        return [str(one) for one in suspects.outliers(rows, seed=seed, looks=looks)]


def distribution_of(answers: Answers) -> Distribution:
    return OfLabels(answers.names) if isinstance(answers, Labels) else OfNumbers(answers)


def answers_in(card: Mapping[str, Any]) -> Answers:
    """What the task answered with when this data card was written."""
    return Labels(tuple(card["labels"])) if "labels" in card else Numbers(**card["range"])


def _values(labels: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([float(label) for label in labels], dtype=np.float64)
