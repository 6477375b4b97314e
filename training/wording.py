"""How figures of labels, and of numbers, are put into words for the report and its summary."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from regraft.answers import LESS_IS_BETTER, Answers, Labels, Numbers, number
from regraft.versions import Manifest, Metric
from training.proof import Proof
from training.slices import Slice

UNSURE = 0.05  # half the width of accuracy's interval, above which a larger test part is asked for
UNSURE_SHARE = 0.15  # the same of a mean error, as a share of it
FRAGILE = 0.05  # accuracy that mild changes of the input may cost without a word
FRAGILE_SHARE = 0.15  # the same of a mean error, as a share of it


class Wording(Protocol):
    def figure(self, metric: Metric) -> str:
        """The first of the target's figures."""

    def gets(self, metric: Metric) -> str:
        """The same, of somebody."""

    def gained(self, metric: Metric, sign: str = "+") -> str:
        """A difference in it with its interval, above 0 where something is better."""

    def opening(self, manifest: Manifest) -> list[str]:
        """What a version does, and how well."""

    def weakest(self, manifest: Manifest, proof: Proof) -> str: ...

    def instead(self, figure: float, elsewhere: float) -> str:
        """How good a slice is, and the rest."""

    def confidence(self, proof: Proof) -> str | None:
        """Why confidence is not to be believed, if it is not."""

    def fragile(self, gain: Metric, clean: Metric) -> bool:
        """Whether a change of the inputs costs more than one would put up with."""

    def unsure(self, metric: Metric) -> bool: ...


class OfLabels(NamedTuple):
    answers: Labels

    def figure(self, metric: Metric) -> str:
        return percent(metric)

    def gets(self, metric: Metric) -> str:
        return f"gets {percent(metric)}"

    def gained(self, metric: Metric, sign: str = "+") -> str:
        return points(metric, sign)

    def opening(self, manifest: Manifest) -> list[str]:
        accuracy, rows = manifest.test["accuracy"], manifest.training["rows"]["test"]
        return [
            f"This version sorts {manifest.input}s into {listed(self.answers.names)}.",
            (
                f"Of {rows:,} it had never seen it got {percent(accuracy)} right"
                f" (with 95% confidence between {accuracy.low:.1%} and {accuracy.high:.1%})."
            ),
        ]

    def weakest(self, manifest: Manifest, proof: Proof) -> str:
        labels = self.answers.names
        label = min(tested(labels, proof), key=lambda one: manifest.test[f"f1/{one}"].value)
        place, recall = labels.index(label), manifest.test[f"recall/{label}"].value
        wrong = [0 if other == place else count for other, count in enumerate(proof.confusion[place])]
        said = f"It is weakest at {label}, of which it finds {recall:.0%}"
        if not any(wrong):
            return said + "."
        taken = labels[wrong.index(max(wrong))]
        return f"{said}; {max(wrong) / sum(proof.confusion[place]):.0%} it takes for {taken}."

    def instead(self, figure: float, elsewhere: float) -> str:
        return f"{figure:.0%} right instead of {elsewhere:.0%}"

    def confidence(self, proof: Proof) -> str | None:
        measured = proof.calibration
        if measured is None or measured.ece_after <= measured.ece_by_chance[1]:
            return None
        return (
            f"Confidence is off by {measured.ece_after:.3f} on average, more than chance explains"
            f" ({measured.ece_by_chance[1]:.3f}): do not act on it without a look at live accuracy."
        )

    def fragile(self, gain: Metric, clean: Metric) -> bool:
        del clean
        return gain.high < 0 and -gain.value > FRAGILE

    def unsure(self, metric: Metric) -> bool:
        return (metric.high - metric.low) / 2 > UNSURE


class OfNumbers(NamedTuple):
    answers: Numbers

    def figure(self, metric: Metric) -> str:
        return number(metric.value)

    def gets(self, metric: Metric) -> str:
        return f"is off by {number(metric.value)}"

    def gained(self, metric: Metric, sign: str = "+") -> str:
        value, low, high = (number(one, sign) for one in (metric.value, metric.low, metric.high))
        return f"{value} ({low} to {high})"

    def opening(self, manifest: Manifest) -> list[str]:
        off, explained, rows = manifest.test["mae"], manifest.test["r2"], manifest.training["rows"]["test"]
        return [
            f"This version says a number of each {manifest.input}.",
            (
                f"On {rows:,} it had never seen it was off by {number(off.value)} on average (with 95% confidence"
                f" between {number(off.low)} and {number(off.high)}), and explains {explained.value:.0%} of how they"
                " differ (R²)."
            ),
        ]

    def weakest(self, manifest: Manifest, proof: Proof) -> str:
        del manifest
        held = proof.intervals
        if held is None:
            return ""
        return (
            f"Each answer comes with an interval, {number(held.width.value)} wide on average, that is to hold the truth"
            f" in {held.level:.0%} of the cases; of the test rows it held {percent(held.coverage)}."
        )

    def instead(self, figure: float, elsewhere: float) -> str:
        return f"off by {number(figure)} on average instead of {number(elsewhere)}"

    def confidence(self, proof: Proof) -> str | None:
        held = proof.intervals
        if held is None or held.coverage.high >= held.level:
            return None
        return (
            f"Intervals hold {percent(held.coverage)} of the truths instead of {held.level:.0%}: the test part differs"
            " from the validation part; do not act on them without a look at live figures."
        )

    def fragile(self, gain: Metric, clean: Metric) -> bool:
        return gain.high < 0 and -gain.value > FRAGILE_SHARE * clean.value

    def unsure(self, metric: Metric) -> bool:
        return (metric.high - metric.low) / 2 > UNSURE_SHARE * metric.value


def wording_of(answers: Answers) -> Wording:
    return OfLabels(answers) if isinstance(answers, Labels) else OfNumbers(answers)


def tested(labels: Sequence[str], proof: Proof) -> list[str]:
    """Those that the test part has rows of; of the others it says nothing."""
    return [label for label, row in zip(labels, proof.confusion, strict=True) if any(row)]


def in_order(figure: str, metric: Metric) -> float:
    """What figures are compared by: more is better."""
    return -metric.value if figure in LESS_IS_BETTER else metric.value


def percent(metric: Metric) -> str:
    return f"{metric.value:.1%}"


def points(metric: Metric, sign: str = "+") -> str:
    """A difference of shares, in percentage points with its interval."""
    value, low, high = (f"{100 * figure:{sign}.1f}" for figure in (metric.value, metric.low, metric.high))
    return f"{value} points ({low} to {high})"


def listed(labels: Sequence[str], most: int = 6) -> str:
    if len(labels) > most:
        return f"{len(labels)} labels, among them {', '.join(labels[: most - 1])}"
    return f"{', '.join(labels[:-1])} and {labels[-1]}"


def failure(words: Wording, one: Slice) -> str:
    said = words.instead(one.figure.value, one.elsewhere)
    return f"Where {where(one)} it is clearly worse than elsewhere: {said}."


def where(one: Slice) -> str:
    return f"{one.condition} is {one.value}"
